#!/usr/bin/env bash
# From a fresh checkout to trained, evaluated and drawn scene graphs on drawn pictures: sets up the
# environment, draws the data set, trains RelCLIP for the three tasks on the shipped small CLIP and
# detector, evaluates it beside the frequency prior, draws predictions, and prints one table.
# Each step is skipped or taken up where it was when the script is run again.
#
#     bash tools/quickstart.sh
#     bash tools/quickstart.sh SOLVER.MAX_ITER 2000      overrides go to every training
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
cd "$VRD_D2_ROOT"

python datasets/prepare_scenes.py
for task in predcls sgcls sgdet; do
    python tools/train_net.py --config-file "configs/quickstart/relclip_$task.yaml" --resume "$@"
    python tools/visualize.py --config-file "configs/quickstart/relclip_$task.yaml" \
        --output output/quickstart/pictures --num 6 \
        MODEL.WEIGHTS "output/quickstart/$task/model_final.pth"
done
python tools/train_net.py --config-file configs/quickstart/frequency_predcls.yaml --eval-only
echo
python tools/results_table.py output/quickstart/*/
echo
echo "Pictures of predictions: output/quickstart/pictures"
