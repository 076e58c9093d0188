# The levers of the ablations, for the recipes beside it: `lever NAME` puts a lever's options of fit into the array `with`,
# `lever NAME+NAME` those of both, one after the other.
slow=(--model.width_lr '{4: 0.7, 3: 0.5, 2: 0.5}') # what starts at large factors moves more at a rate
lever() {
  case $1 in
    *+*) lever "${1%%+*}" && local first=("${with[@]}") && lever "${1#*+}" && with=("${first[@]}" "${with[@]}") ;;
    ternary) with=(--model.grid Symmetric --model.grid.group_size 64 --model.grid.scale mse) ;;
    stretched) with=(--model.grid Stretched --model.grid.group_size 64 --model.grid.scale mse) ;;
    nested) with=(--model.grid Nested --model.grid.group_size 64 --model.grid.scale absmax) ;;
    nested-mse) with=(--model.grid Nested --model.grid.group_size 64 --model.grid.scale mse) ;;
    nested-double) with=(--model.grid Nested --model.grid.group_size 64 --model.grid.scale absmax --model.grid.double true) ;;
    g128) with=(--model.grid.group_size 128) ;;
    g32) with=(--model.grid.group_size 32) ;;
    scales) with=(--model.learn_scales true) ;;
    scales-fast) with=(--model.learn_scales true --model.scale_lr 1e-2) ;;
    base) with=(--model.train_base true --model.base_lr 1e-4) ;;
    norms) with=(--model.own_norms true) ;;
    lr-2bit) with=(--model.width_lr '{2: 2.0}') ;;
    lr-double) with=(--model.lr 1e-3) ;;
    switch-dropout) with=(--model.switch_dropout 0.1) ;;
    dropout) with=(--model.adapter_dropout 0.1) ;;
    mixed) with=(--schedule.bitmaps '["8", "3", "2", "4", "mixed", "2"]') ;;
    nested-slow) lever nested && with+=("${slow[@]}") ;;
    shared-start-fours) lever shared-start && with+=(--schedule.bitmaps '["8", "4", "2", "4", "3", "2"]') ;; # the recipe
    shared-start-ten) lever shared-start && with+=(--schedule.bitmaps '["8", "4", "3", "2", "4", "3", "2", "4", "3", "2"]') ;;
    shared-start-fours-half) lever shared-start-fours && with+=(--model.shared_lr 0.1) ;;
    shared-start-fours-quarter) lever shared-start-fours && with+=(--model.shared_lr 0.05) ;;
    shared-start) lever shared-start-slow && with+=("${slow[@]}") ;;
    shared-start-double) lever shared-start && with+=(--model.shared_lr 0.4) ;;
    shared-start-slow) lever shared-start-fast && with+=(--model.shared_lr 0.2) ;;
    shared-start-fast) lever nested && with+=(--model.shared_start qera) ;;
    apiq) with=(--model.adapter_start apiq) ;;
    mixed-apiq) lever mixed && with+=(--model.adapter_start apiq) ;;
    hard) with=(--schedule.distill 0) ;;
    kd) with=(--schedule.distill 1) ;;
    kd-all) with=(--schedule.distill 1 --model.kd_tokens all) ;;
    all-tokens) with=(--model.kd_tokens all) ;; # where others teach anyway
    kd-top8) with=(--schedule.distill 1 --model.kd_top_k 8) ;;
    kd-hidden) with=(--schedule.distill 1 --model.kd_hidden 1.0) ;;
    sandwich) with=(--schedule.sampler sandwich --schedule.mixed 2) ;;
    balance) with=(--model.balance true) ;;
    next) with=(--schedule.teachers next) ;;
    bare) with=(--schedule.bare_teacher true) ;;
    *) echo "no row $1" >&2; return 2 ;;
  esac
}
