#!/usr/bin/env bash
# Every row of the SmolLM2 table at equal compute: PASSES passes (500) of BATCH questions (32) each, then all bitmaps on the
# dev set.
#   bash configs/recipes/smollm2-squad.sh MODEL TRAIN.json DEV.json OUTPUT_FOLDER [SEED [OPTIONS OF fit...]]
# TUNE=3 is for choosing between rows: it scores on the last three articles of TRAIN.json, trains on those before them, and
# leaves DEV.json alone. It wants an output folder of its own.
# ROWS="spnet cyclic" runs some of them; PARALLEL=1 runs all at once on one GPU (the scores are the same, the speeds are not),
# which they share far better after `nvidia-cuda-mps-control -d`.
# Scores are taken in TF32 on GPUs that have it. A row that fails is said, the others run, and the exit code is 1.
set -euo pipefail
export TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 PYTORCH_ALLOC_CONF=expandable_segments:True
model=$1 train=$2 dev=$3 out=$4 seed=${5:-0}
extra=("${@:6}")
passes=${PASSES:-500} batch=${BATCH:-32}
mkdir -p "$out"
if [ -n "${TUNE:-}" ]; then
  python - "$train" "$TUNE" "$out" << 'CUT'
import json, pathlib, sys
train, articles, out = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
content = json.loads(pathlib.Path(train).read_text(encoding="utf-8"))
if not 0 < articles < len(content["data"]):
    sys.exit(f"TUNE={articles}: {train} has {len(content['data'])} articles, some of which are to be trained on")
for name, part in (("train", content["data"][:-articles]), ("dev", content["data"][-articles:])):
    (out / f"tune-{name}.json").write_text(json.dumps(content | {"data": part}), encoding="utf-8")
CUT
  train=$out/tune-train.json dev=$out/tune-dev.json
fi
row() { # name, passes an optimiser step, then options of fit
  local name=$1 steps=$((passes / $2))
  shift 2
  switchq fit --config configs/recipes/smollm2-squad.yaml --seed_everything "$seed" --model.base "$model" \
    --data.train "$train" --data.dev "$dev" --data.seed "$seed" --data.batch_size "$batch" --trainer.max_steps "$steps" \
    --trainer.default_root_dir "$out/$name-seed$seed" "$@" "${extra[@]}"
}
turns=(--schedule Cyclic --schedule.mode turns)
base=(--model.train_base true --model.learn_scales true --model.base_lr 1e-4)
groups=(--model.grid Asymmetric --model.grid.group_size 64 --model.grid.scale mse)
scored='["16", "8", "8/4", "4", "3", "4/2", "2"]'
qera=("${groups[@]}" --model.bits '[8, 4, 3, 2]' --model.adapter_start qera --model.shared_rank 16 --model.bitmaps "$scored"
  "${turns[@]}" --schedule.bitmaps '["8", "2", "4", "2", "3", "2", "4/2", "2"]')
even=("${qera[@]}" --model.rank '{4: 48, 3: 64}' --model.shared_rank 32)
even_turns=(--schedule.bitmaps '["8", "3", "2", "4", "3", "2"]')
even_steps=(--schedule.bitmaps '["8", "4", "3", "2"]')
three=(--schedule.bitmaps '["4", "3", "2"]' --model.rank '{8: 0, 4: 48, 3: 64}')
source "$(dirname "$0")/levers.sh"
dedicated() { # dedicated-WIDTH..., then options of fit
  local bits=${1:10:1} rate=()
  [[ " ${*:2}" != *width_lr* ]] || rate=(--model.width_lr "{$bits: $(case $bits in 8) echo 1 ;; 4) echo 0.7 ;; *) echo 0.5 ;; esac)}")
  row "$1" 1 "${even[@]}" --model.bits "[$bits]" --model.bitmaps "[16, $bits]" "${@:2}" "${rate[@]}" --schedule.bitmaps "[\"$bits\"]"
}
run() {
  case $1 in
    before) switchq eval --model "$model" --data "$dev" --batch_size 128 --max_new_tokens 24 --output "$out/before.json" ;;
    spnet) row spnet 5 ;;
    instantnet) row instantnet 5 --schedule InstantNet ;;
    cyclic) row cyclic 1 --schedule Cyclic ;;
    lora16) row lora16 1 --model.bits '[16]' --schedule.bitmaps '["16"]' --model.bitmaps '[16, 8, 8/4, 4, 4/2, 2]' ;;
    spnet-g64) row spnet-g64 5 "${groups[@]}" ;;
    spnet-g64-loftq) row spnet-g64-loftq 5 "${groups[@]}" --model.adapter_start loftq ;;
    turns-shared) row turns-shared 1 "${groups[@]}" "${turns[@]}" --model.adapter_start loftq --model.shared_rank 16 ;;
    turns-shared-0) # 8 bits without an adapter of its own
      row turns-shared-0 1 "${groups[@]}" "${turns[@]}" --model.adapter_start loftq --model.shared_rank 16 --model.rank '{8: 0}' ;;
    turns-qera) row turns-qera 1 "${qera[@]}" ;;
    turns-even) # turns alike for narrow widths, larger adapters at 4 and 3 bits
      row turns-even 1 "${even[@]}" "${even_turns[@]}" ;;
    turns-even-shared-start-three) # no turn and no adapter of its own for 8 bits
      lever shared-start && row "$1" 1 "${even[@]}" "${with[@]}" "${three[@]}" ;;
    turns-even-*) lever "${1#turns-even-}" && row "$1" 1 "${even[@]}" "${even_turns[@]}" "${with[@]}" ;;
    even-spnet) row even-spnet 4 "${even[@]}" --schedule SPNet "${even_steps[@]}" ;;
    even-spnet-*) lever "${1#even-spnet-}" && row "$1" 4 "${even[@]}" --schedule SPNet "${with[@]}" "${even_steps[@]}" ;;
    even-instantnet) row even-instantnet 4 "${even[@]}" --schedule InstantNet "${even_steps[@]}" ;;
    even-instantnet-three-*)
      lever "${1#even-instantnet-three-}" && row "$1" 3 "${even[@]}" --schedule InstantNet "${with[@]}" "${three[@]}" ;;
    even-instantnet-*)
      lever "${1#even-instantnet-}" && row "$1" 4 "${even[@]}" --schedule InstantNet "${with[@]}" "${even_steps[@]}" ;;
    dedicated-[8432]) # the same model for one width alone
      dedicated "$1" ;;
    dedicated-[8432]-*) lever "${1#dedicated-?-}" && dedicated "$1" "${with[@]}" ;;
    turns-qera-kd) row turns-qera-kd 1 "${qera[@]}" --schedule.distill 1 ;;
    turns-base) row turns-base 1 "${groups[@]}" "${turns[@]}" "${base[@]}" --model.rank '{8: 0, 4: 0, 2: 0}' ;;
    turns-base-loftq) row turns-base-loftq 1 "${groups[@]}" "${turns[@]}" "${base[@]}" --model.adapter_start loftq --model.rank '{8: 0}' ;;
    turns-base-shared) # everything at once
      row turns-base-shared 1 "${groups[@]}" "${turns[@]}" "${base[@]}" --model.adapter_start loftq --model.rank '{8: 0}' \
        --model.shared_rank 16 ;;
    *) echo "no row $1" >&2; return 2 ;;
  esac
}
code=0 started=()
for name in ${ROWS:-before spnet instantnet cyclic lora16}; do
  { run "$name" > "$out/$name-seed$seed.log" 2>&1 || { echo "row $name failed: see $out/$name-seed$seed.log" >&2; exit 1; }; } &
  if [ -n "${PARALLEL:-}" ]; then started+=($!); else wait $! || code=1; fi
done
for one in "${started[@]}"; do wait "$one" || code=1; done
exit $code
