#!/usr/bin/env bash
# Mixed precision for SmolLM2-135M-Instruct on a GPU: a switchable checkpoint, sensitivities, searches, one report.
#   bash configs/recipes/smollm2-search.sh MODEL TRAIN.json DEV.json OUTPUT_FOLDER [SEED]
# Blocks get a width each in the first search, layers in the second; plain greedy on the same blocks is there to compare. The
# three run at once on the one GPU, which slows their tokens/s.
set -euo pipefail
export TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1
model=$1 train=$2 dev=$3 out=$4 seed=${5:-0}
run=$out/turns-qera-seed$seed
ckpt=$run/lightning_logs/version_0/checkpoints/last.ckpt
[ -f "$ckpt" ] || ROWS=turns-qera bash "$(dirname "$0")/smollm2-squad.sh" "$model" "$train" "$dev" "$out" "$seed" \
  --summary.enabled false # the searches score the dev set
[ -f "$out/sensitivity.json" ] || switchq sensitivity --ckpt "$ckpt" --limit 32 --batch_size 32 \
  --output "$out/sensitivity.json" --logdir "$out/sensitivity"
search() { # name, then options of search; one that is finished already is left alone
  local name=$1
  shift
  [ -f "$out/$name.json" ] || switchq search --ckpt "$ckpt" --sensitivity "$out/sensitivity.json" --budget 0.1 \
    --batch_size 200 --dev_points 3 --seed "$seed" --output "$out/$name.csv" "$@" > "$out/$name.log" 2>&1
}
search plain --group block --method greedy-plain &
search blocks --group block --generations 8 --population 12 &
search layers --generations 8 --population 12 &
wait
switchq report "$run/lightning_logs/version_0" "$out/sensitivity.json" "$out/blocks.json" "$out/layers.json" \
  "$out/plain.json" --title "SmolLM2-135M, mixed precision" --output "$out/report.html" --figures "$out/figures" --overwrite
