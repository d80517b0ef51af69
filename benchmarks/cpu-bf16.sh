#!/bin/sh
# The results of docs/speed.md for a CPU with bfloat16 arithmetic, one thread, without compiled networks: some minutes.
set -e
for name in cpu-bfloat16 cpu-bfloat16-latency cpu-bfloat16-train; do
    python -m rmt.benchmark --preset $name --output benchmarks/$name.json
done
