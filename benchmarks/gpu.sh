#!/bin/sh
# Everything docs/speed.md states or owes for a GPU, in nine minutes: on torch, Triton, timm and NumPy alone, from a checkout.
# The most important comes first; what a slow host leaves undone is cut off and the rest goes on.
out=${1:-benchmarks/gpu}
mkdir -p "$out"
export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
bench="python3 -m rmt.benchmark --device cuda --rounds 5 --seconds 0.1"
swin=swin_tiny_patch4_window7_224
peers="$swin convnext_tiny caformer_s18 caformer_s36 convformer_s36 mambaout_small maxvit_tiny_tf_224"
timeout 120 python3 -m rmt.benchmark.kernels --output "$out/kernels.json" | tee "$out/kernels.txt"
timeout 100 $bench --models rmt_tiny rmt_small rmt_base rmt_large $peers --batches 64 --dtypes bfloat16 --no-memory \
    --modes eager/plain eager eager+graph/plain deploy+graph --output "$out/forward.json"
timeout 80 $bench --models rmt_small $swin --batches 64 --dtypes autocast --steps train \
    --modes eager/plain eager eager+graph/plain eager+graph --output "$out/train.json"
timeout 70 $bench --models rmt_tiny rmt_small rmt_base rmt_large --batches 2 --image-sizes 800x1333 --dtypes bfloat16 \
    --modes eager/plain deploy+graph --output "$out/large.json"
timeout 80 $bench --models rmt_small --batches 64 --dtypes bfloat16 --no-memory --modes deploy+graph deploy+compile+graph \
    --output "$out/compiled.json"
if command -v compute-sanitizer >/dev/null; then
    timeout 90 compute-sanitizer --tool memcheck python3 benchmarks/gpu_memcheck.py | tee "$out/memcheck.txt"
fi
