#!/usr/bin/env bash
# A small GPT-2 writes its own training text, learns from it at every bitmap, and is scored on WikiText-2 before and after.
#   bash configs/recipes/gpt2-mini-text.sh MODEL SQUAD_TRAIN.json WIKI_TEST.raw OUTPUT_FOLDER [SEED]
set -euo pipefail
model=$1 prompts=$2 wiki=$3 out=$4 seed=${5:-0}
mkdir -p "$out"
switchq gendata --model "$model" --source "$prompts" --output "$out/generated-seed$seed" --count 1600 \
  --max_new_tokens 128 --batch_size 400 --seed "$seed"
switchq fit --config configs/recipes/gpt2-mini-text.yaml --seed_everything "$seed" --model.base "$model" \
  --data.train "$out/generated-seed$seed" --data.test "$wiki" --data.seed "$seed" \
  --trainer.default_root_dir "$out/mini-seed$seed" "${@:6}"
