#!/bin/sh
# The results of docs/speed.md for a GPU, in nine minutes. Needs a checkout, torch, Triton, timm and NumPy only.
# The most important comes first. On a slow host the last commands are stopped; a command that is stopped writes nothing.
out=${1:-benchmarks/gpu}
mkdir -p "$out"
export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
end=$(($(date +%s) + 535)) status=0
within() { # seconds command...: run the command for at most that time, or until the nine minutes are over
    left=$((end - $(date +%s)))
    [ "$1" -lt "$left" ] && left=$1
    shift
    if [ "$left" -lt 15 ]; then
        echo "no time left: $*" >&2
    else
        timeout "$left" "$@" && return
        echo "stopped or failed: $*" >&2
    fi
    status=1
}
bench="python3 -m rmt.benchmark"
within 120 python3 "$(dirname "$0")/kernels.py" --output "$out/kernels.json" >"$out/kernels.txt"
within 100 $bench --preset gpu-forward --output "$out/forward.json"
within 80 $bench --preset gpu-train --output "$out/train.json"
within 90 $bench --preset gpu-train-others --output "$out/train-others.json"
within 60 $bench --preset gpu-train-others --models rmt_large --output "$out/train-large.json"
within 70 $bench --preset gpu-large --output "$out/large.json"
within 130 $bench --preset gpu-compiled --output "$out/compiled.json"
within 60 $bench --preset gpu-forward-128 --output "$out/forward-128.json"
within 30 python3 "$(dirname "$0")/launch_time.py" "$out/launch-time.json"
if command -v compute-sanitizer >/dev/null; then
    within 90 compute-sanitizer --tool memcheck python3 benchmarks/gpu_memcheck.py >"$out/memcheck.txt" 2>&1
fi
cat "$out/kernels.txt"
exit "$status"
