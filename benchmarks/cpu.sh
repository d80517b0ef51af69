#!/bin/sh
# Everything docs/speed.md states for a CPU, in the order of its sections; about 40 minutes on two cores.
set -e
bench="python -m rmt.benchmark"
swin=swin_tiny_patch4_window7_224
$bench --models rmt_tiny rmt_small rmt_base $swin convnext_tiny caformer_s18 convformer_s36 davit_small mambaout_small \
    --modes eager deploy --rounds 7 --output benchmarks/cpu-peers.json
$bench --models rmt_small $swin --modes eager deploy deploy+compile --backends auto plain sdpa blockwise \
    --rounds 7 --output benchmarks/cpu-224.json
$bench --models rmt_tiny --batches 1 --modes eager deploy deploy+compile --backends auto plain \
    --rounds 15 --output benchmarks/cpu-latency.json
$bench --models rmt_small --batches 1 --modes eager deploy --image-sizes 224 448 896 1344 1792 2688 \
    --tolerances 0 1e-5 1e-3 1e-2 --rounds 3 --output benchmarks/cpu-pixels.json
$bench --models rmt_small $swin --modes eager --backends auto plain --steps train --rounds 5 \
    --output benchmarks/cpu-train.json
$bench --models rmt_small $swin --dtypes float32 bfloat16 --modes eager deploy --rounds 3 --no-memory \
    --output benchmarks/cpu-bfloat16.json
