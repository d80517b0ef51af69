#!/bin/sh
# The results of docs/speed.md for a CPU, with all cores, memory and peers: about 50 minutes on two idle cores.
set -e
bench="python -m rmt.benchmark"
swin=swin_tiny_patch4_window7_224
$bench --models rmt_small $swin --modes eager/plain eager deploy deploy+compile --output benchmarks/cpu-224.json
$bench --models rmt_tiny --batches 1 --modes eager/plain eager deploy deploy+compile --rounds 15 \
    --output benchmarks/cpu-latency.json
$bench --models rmt_small --batches 1 --modes eager/plain deploy --image-sizes 224 1792 --rounds 3 \
    --output benchmarks/cpu-large.json
$bench --models rmt_small $swin --modes eager/plain eager --steps train --rounds 4 --output benchmarks/cpu-train.json
$bench --models rmt_small --batches 1 --modes deploy --image-sizes 224 448 896 1344 1792 2688 \
    --tolerances 0 1e-5 1e-3 1e-2 --rounds 2 --no-memory --output benchmarks/cpu-pixels.json
$bench --models rmt_tiny rmt_small rmt_base $swin convnext_tiny caformer_s18 convformer_s36 davit_small mambaout_small \
    --modes eager deploy --rounds 5 --no-memory --output benchmarks/cpu-peers.json
for run in cpu-peers cpu-pixels; do python -m rmt.benchmark.plot benchmarks/$run.json; done
