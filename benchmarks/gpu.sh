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
bench="python3 -m rmt.benchmark --device cuda --rounds 5 --seconds 0.1"
ours="rmt_tiny rmt_small rmt_base rmt_large"
swin=swin_tiny_patch4_window7_224
peers="$swin convnext_tiny caformer_s18 caformer_s36 convformer_s36 mambaout_small maxvit_tiny_tf_224"
within 120 python3 "$(dirname "$0")/kernels.py" --output "$out/kernels.json" >"$out/kernels.txt"
within 100 $bench --models $ours $peers --batches 64 --dtypes bfloat16 --no-memory \
    --modes eager/plain eager eager+graph/plain deploy+graph --output "$out/forward.json"
within 80 $bench --models rmt_small $swin --batches 64 --dtypes autocast --steps train \
    --modes eager/plain eager eager+graph/plain eager+graph --output "$out/train.json"
within 90 $bench --models rmt_tiny rmt_base rmt_large --batches 64 --dtypes autocast --steps train --no-memory \
    --modes eager+graph/plain eager+graph --output "$out/train-others.json"
within 70 $bench --models $ours --batches 2 --image-sizes 800x1333 --dtypes bfloat16 \
    --modes eager/plain deploy+graph --output "$out/large.json"
within 130 $bench --models rmt_small --batches 64 --dtypes bfloat16 --no-memory \
    --modes deploy+graph deploy+compile+graph compile+graph/plain --output "$out/compiled.json"
within 60 $bench --models $ours --batches 128 --dtypes bfloat16 --no-memory \
    --modes eager+graph/plain deploy+graph --output "$out/forward-128.json"
if command -v compute-sanitizer >/dev/null; then
    within 90 compute-sanitizer --tool memcheck python3 benchmarks/gpu_memcheck.py >"$out/memcheck.txt" 2>&1
fi
cat "$out/kernels.txt"
exit "$status"
