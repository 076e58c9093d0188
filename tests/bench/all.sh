#!/usr/bin/env bash
# Every benchmark, each with a time limit of its own, figures as JSON in a folder:
#   bash tests/bench/all.sh cuda OUTPUT_FOLDER
# The limit kills: a benchmark runs inside a Trainer, which would outlive a polite signal.
set -uo pipefail
device=$1 out=$2
here=$(dirname "$0")
mkdir -p "$out"
bench() { # name, seconds, script, options
  local name=$1 limit=$2 script=$3
  shift 3
  echo "=== $name"
  timeout -s KILL "$limit" python "$here/$script" --device "$device" --output "$out/$name.json" "$@" || echo "$name: no result"
}
bench switch 60 bench_switch.py
bench step 120 bench_step.py --labels all --rungs 8 4 2
bench recipe 300 bench_step.py --labels all --config "$here/../../configs/cyclic.yaml"
bench losses 120 bench_losses.py
bench seed-scheme 90 bench_seed_scheme.py
bench sensitivity 120 bench_sensitivity.py
bench compiled 240 bench_step.py --labels all --rungs 8 --compile
if [ "$device" = cpu ]; then bench artifact 300 bench_artifact.py --embeddings 8; fi
if [ "$device" = cpu ]; then bench cpu-peers 600 bench_cpu_peers.py --peer-python ${PEER_PYTHON:-python}; fi
