#!/usr/bin/env bash
# What each piece of the recipe does on the embedded tiny GPT-2, offline, on a CPU: a run a row and seed, then two tables.
#   bash configs/recipes/tiny-ablation.sh OUTPUT_FOLDER [SEEDS...]
# Adapters are small (rank 4, 4, 4 and 8 at 8, 4, 3 and 2 bits), or they would undo rounding all by themselves; every row has the same
# data and compute (PASSES passes, 150, of 16 questions). ROWS="turns qera" runs some of them, JOBS=8 so many at a time; what is there is
# not repeated. A row that fails is said, the others run, and the exit code is 1.
set -euo pipefail
out=$1
seeds=("${@:2}")
passes=${PASSES:-150}
mkdir -p "$out"
bare=(--model.grid Symmetric --model.grid.group_size null --model.shared_start zero --model.shared_rank 0 --model.shared_lr 1 --model.width_lr null)
one() { # name, passes an optimiser step, then options of fit
  local name=$1-seed$seed steps=$((passes / $2))
  shift 2
  rm -rf "${out:?}/$name" # what was cut off
  switchq fit --config configs/quickstart.yaml --seed_everything "$seed" --data.seed "$seed" --trainer.max_steps "$steps" \
    --trainer.default_root_dir "$out/$name" --trainer.limit_val_batches 0 --trainer.enable_progress_bar false --summary.compare false \
    "${bare[@]}" --model.bits '[8, 4, 3, 2]' --model.rank '{8: 4, 4: 4, 3: 4, 2: 8}' --model.lr 1e-3 \
    --model.bitmaps '["16", "8", "8/4", "4", "3", "4/2", "2"]' "$@"
}
source "$(dirname "$0")/levers.sh"
written() { # the model's own answers to as many prompts as all passes take
  switchq gendata --model data/tiny-gpt2 --source data/reading/train.json --count $((passes * 16)) --max_new_tokens 10 \
    --greedy_tokens 10 --output "$out/written" > "$out/written.log" 2>&1
}
groups=(--model.grid Asymmetric --model.grid.group_size 64 --model.grid.scale mse)
turns=(--schedule Cyclic --schedule.mode turns --schedule.bitmaps '["8", "3", "2", "4", "3", "2"]' --schedule.distill 1)
rung=(--schedule.bitmaps '["8", "4", "3", "2"]')
qera=("${groups[@]}" "${rung[@]}" --model.adapter_start qera)
cascade=("${groups[@]}" --schedule InstantNet "${rung[@]}" --model.adapter_start qera)
recipe=("${groups[@]}" "${turns[@]}" --model.shared_rank 4 --model.adapter_start qera)
row() {
  case $1 in
    lora16) one lora16 1 --model.bits '[16]' --model.rank '{16: 4}' --schedule.bitmaps '["16"]' --model.adapter_start zero ;;
    spnet) one spnet 4 "${rung[@]}" --model.adapter_start zero ;;
    groups) one groups 4 "${groups[@]}" "${rung[@]}" --model.adapter_start zero ;;
    loftq) one loftq 4 "${groups[@]}" "${rung[@]}" --model.adapter_start loftq ;;
    qera) one qera 4 "${qera[@]}" ;;
    ternary | stretched | nested | nested-double | nested-mse | g128 | sandwich) lever "$1" && one "$1" 4 "${qera[@]}" "${with[@]}" ;;
    instantnet) one instantnet 4 "${cascade[@]}" ;;
    next | bare) lever "$1" && one "$1" 4 "${cascade[@]}" "${with[@]}" ;;
    shared) one shared 4 "${qera[@]}" --model.shared_rank 4 ;;
    balance) lever balance && one balance 4 "${qera[@]}" --model.shared_rank 4 "${with[@]}" ;;
    turns) one turns 1 "${groups[@]}" "${turns[@]}" --model.adapter_start qera ;;
    recipe) one recipe 1 "${recipe[@]}" ;;
    qera-shared-start) lever shared-start && one "$1" 4 "${qera[@]}" --model.shared_rank 4 "${with[@]}" ;;
    instantnet-*) lever "${1#instantnet-}" && one "$1" 4 "${cascade[@]}" --model.shared_rank 4 "${with[@]}" ;;
    rank0) one rank0 1 "${recipe[@]}" --model.rank '{8: 0, 4: 4, 3: 4, 2: 8}' ;; # 8 bits without an adapter of its own
    own-answers) one own-answers 1 "${recipe[@]}" --data.train "$out/written" ;;
    both-answers) one both-answers 1 "${recipe[@]}" --data.generated "$out/written" ;;
    *) lever "$1" && one "$1" 1 "${recipe[@]}" "${with[@]}" ;;
  esac
}
all="lora16 spnet groups loftq qera ternary stretched nested nested-double nested-mse g128 sandwich instantnet next bare shared balance turns recipe hard rank0 mixed
  nested-slow shared-start-fast shared-start-slow shared-start shared-start-fours qera-shared-start instantnet-shared-start instantnet-shared-start+all-tokens scales scales-fast base norms lr-2bit switch-dropout dropout kd-all kd-top8 kd-hidden own-answers both-answers"
rows=${ROWS:-$all}
[[ $rows != *-answers* ]] || written
code=0 started=() jobs=$((${JOBS:-1} > 0 ? ${JOBS:-1} : 1))
for seed in "${seeds[@]:-0}"; do
  for name in $rows; do
    log=$out/$name-seed$seed.log
    [ ! -f "$out/$name-seed$seed/lightning_logs/version_0/results.json" ] || continue
    { row "$name" > "$log" 2>&1 || { echo "row $name failed: see $log" >&2; exit 1; }; } &
    started+=($!)
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
  done
done
for one in "${started[@]}"; do wait "$one" || code=1; done
python - "$out" $all <<'PY'
import json, statistics, sys
from pathlib import Path

for figure, digits in (("F1", 1), ("answer_perplexity", 3)):
    found: dict[str, dict[str, list[float]]] = {}
    for name in sys.argv[2:]:
        for path in sorted(Path(sys.argv[1]).glob(f"{name}-seed*/lightning_logs/version_0/results.json")):
            for record in json.loads(path.read_text()):
                found.setdefault(name, {}).setdefault(record["label"], []).append(record[figure])
    if not found:
        sys.exit(f"no row has results in {sys.argv[1]}")
    labels = list(next(iter(found.values())))
    print(f"| {figure} |", " | ".join(labels), "|")
    print("|---" * (len(labels) + 1) + "|")
    for name, row in found.items():
        cells = [f"{statistics.mean(row[label]):.{digits}f} ± {statistics.pstdev(row[label]):.{digits}f}" for label in labels]
        print(f"| {name} |", " | ".join(cells), "|")
PY
exit $code
