#!/usr/bin/env bash
# From a fresh checkout to trained, evaluated and drawn scene graphs on drawn images: sets up the
# environment, draws the dataset, trains RelCLIP for the three tasks on the shipped small CLIP and
# detector, evaluates it beside the frequency prior, draws predictions, and prints one table.
# Run again, it takes up each step where it was; full logs are output/quickstart/*/log.txt.
#
#     bash tools/quickstart.sh
#     bash tools/quickstart.sh SOLVER.MAX_ITER 2000      overrides go to every training
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
cd "$VRD_D2_ROOT"
# Not of this project: a deprecation inside torch, printed at every start.
export PYTHONWARNINGS="ignore::FutureWarning"
configs=configs/quickstart
output=output/quickstart

run() { # config's name, arguments of train_net.py; shows progress and tables, not whole configs
    local config="$1"
    shift
    echo "== $config"
    python tools/train_net.py --config-file "$configs/$config.yaml" "$@" 2>&1 |
        grep --line-buffered -E ' eta: |Inference done|^\| +(ng-)?m?R@K|scored|^error|Traceback|^[A-Za-z.]+Error' || {
        echo "quickstart: $config failed; the whole log is below $output" >&2
        return 1
    }
}

python datasets/prepare_scenes.py
for task in predcls sgcls; do
    run "relclip_$task" --resume "$@"
done
# Detection in every training step is slow on a CPU: SGDet starts from what SGCls has learnt.
run relclip_sgdet --resume MODEL.WEIGHTS "$output/sgcls/model_final.pth" "$@"
run frequency_predcls --eval-only "$@"

for task in predcls sgcls sgdet; do
    python tools/visualize.py --config-file "$configs/relclip_$task.yaml" --num 6 \
        --output "$output/images" "$@" MODEL.WEIGHTS "$output/$task/model_final.pth"
done
echo
python tools/results_table.py "$output"/{frequency_predcls,predcls,sgcls,sgdet}
echo
echo "Images of predictions: $output/images"
