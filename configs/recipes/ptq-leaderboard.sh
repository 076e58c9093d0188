#!/usr/bin/env bash
# The whole leaderboard of a model: every method at 4, 3, 2 and 8 bits, three seeds, then a cross table of two calibration sets.
#   bash configs/recipes/ptq-leaderboard.sh MODEL DATA_FOLDER OUTPUT_FOLDER [OPTIONS OF ptq...]
# DATA_FOLDER holds wikitext-2-raw, c4, ag_news, lambada, arc, squad and gsm8k, as configs/ptq/files.yaml names their files.
# The first seed comes first, so a table is whole before the others begin; what was stopped goes on by the same command.
# GPUS and PROCESSES (on each of them) spread the runs; then the seconds are longer than of a run that has a GPU to itself.
# Products of matrices are taken in TF32 on GPUs that have it.
set -euo pipefail
export TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1
model=$1 data=$2 out=$3
mkdir -p "$(dirname "$out")"
config=$out.yaml
sed "s#\.\./shared/data#$data#" "$(dirname "$0")/../ptq/files.yaml" > "$config"
board() {
  switchq ptq --config "$config" --model "$model" --devices "${GPUS:-1}" --processes "${PROCESSES:-1}" \
    --batch_size 32 --offload false --output "$out" "$@"
}
board --bits 4 --bits 3 --bits 2 --bits 8 --seeds 0 --seeds 1 --seeds 2 "${@:4}"
board --methods awq --methods awq-l2 --methods awq-sh --methods gptq --methods adaround --bits 4 --bits 3 \
  --calibration "$data/c4/calibration.jsonl" --calibration "$data/wikitext-2-raw/wiki.valid.raw" "${@:4}"
