#!/usr/bin/env bash
# Mixed precision for SmolLM2-135M-Instruct on one GPU or several: sensitivities, searches, one report.
#   bash configs/recipes/smollm2-search.sh MODEL TRAIN.json DEV.json OUTPUT_FOLDER [SEED [CHECKPOINT]]
# CHECKPOINT is a file of `fit`; without one, the row turns-even of smollm2-squad.sh is trained first. Blocks get a width each
# in one search, layers in another; plain greedy on the same blocks is there to compare, without a look at the dev set. All
# three run at once, on GPUS GPUs (1) in turn, which slows their tokens/s where they share one; SEARCHES="blocks plain" leaves
# one out, and "greedy" is that method alone, without a look at the dev set. What was cut off goes on by the same command.
set -euo pipefail
export TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1
model=$1 train=$2 dev=$3 out=$4 seed=${5:-0} ckpt=${6:-}
gpus=${GPUS:-1} questions=${QUESTIONS:-200} generations=${GENERATIONS:-5} population=${POPULATION:-8}
searches=${SEARCHES:-blocks layers plain} batch=${EVAL_BATCH:-410}
mkdir -p "$out"
if [ -z "$ckpt" ]; then
  ckpt=$out/turns-even-seed$seed/lightning_logs/version_0/checkpoints/last.ckpt
  [ -f "$ckpt" ] || ROWS=turns-even bash "$(dirname "$0")/smollm2-squad.sh" "$model" "$train" "$dev" "$out" "$seed" \
    --summary.enabled false # the searches score the dev set
fi
[ -f "$out/sensitivity.json" ] || switchq sensitivity --ckpt "$ckpt" --base "$model" --limit 32 --batch_size $((32 / gpus)) \
  --devices "$gpus" --output "$out/sensitivity.json" --logdir "$out/sensitivity" > "$out/sensitivity.log" 2>&1
started=()
search() { # name, then options of search; one that is finished already is left alone
  local name=$1 gpu=$((${#started[@]} % gpus))
  shift
  started+=("$name")
  [ -f "$out/$name.json" ] || CUDA_VISIBLE_DEVICES=$gpu switchq search --ckpt "$ckpt" --base "$model" \
    --sensitivity "$out/sensitivity.json" --budget 0.1 --questions "$questions" --batch_size "$batch" --dev "$dev" --dev_points 3 \
    --generations "$generations" --population "$population" --seed "$seed" --output "$out/$name.csv" "$@" \
    > "$out/$name.log" 2>&1 &
}
results=("$out/sensitivity.json")
for name in $searches; do
  case $name in
    blocks) search blocks --group block ;;
    layers) search layers --greedy_share 0.05 ;; # of 840 steps
    greedy) search greedy --group block --method greedy --dev none ;;
    plain) search plain --group block --method greedy-plain --dev none ;;
    *) echo "no search $name" >&2; exit 2 ;;
  esac
  results+=("$out/$name.json")
done
wait
run=${ckpt%/checkpoints/*} # of the training, for its curves
[ ! -f "$run/config.yaml" ] || results=("$run" "${results[@]}")
switchq report "${results[@]}" --title "SmolLM2-135M, mixed precision" --output "$out/report.html" --figures "$out/figures" \
  --overwrite
