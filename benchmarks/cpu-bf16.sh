#!/bin/sh
# The results of docs/speed.md for a CPU with bfloat16 arithmetic, one thread, without compiled networks: some minutes.
set -e
bench="python -m rmt.benchmark --threads 1"
swin=swin_tiny_patch4_window7_224
$bench --models rmt_small $swin --dtypes float32 bfloat16 --modes eager/plain eager deploy --rounds 9 --no-memory \
    --output benchmarks/cpu-bfloat16.json
$bench --models rmt_tiny --batches 1 --dtypes float32 bfloat16 --modes eager/plain eager deploy --rounds 15 --no-memory \
    --output benchmarks/cpu-bfloat16-latency.json
$bench --models rmt_small $swin --batches 4 --dtypes float32 autocast --modes eager/plain eager --steps train \
    --rounds 5 --output benchmarks/cpu-bfloat16-train.json
