#!/bin/sh
# The results of docs/speed.md for a CPU, with all cores, memory and peers: about 50 minutes on two idle cores.
set -e
for name in cpu-224 cpu-latency cpu-large cpu-train cpu-pixels cpu-peers; do
    python -m rmt.benchmark --preset $name --output benchmarks/$name.json
done
for run in cpu-peers cpu-pixels; do python -m rmt.benchmark.plot benchmarks/$run.json; done
