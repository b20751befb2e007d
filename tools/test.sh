#!/usr/bin/env bash
# Sets up the environment where needed, checks style and layers (.importlinter), then runs the
# tests.
#
#     bash tools/test.sh                          everything, on two processes
#     bash tools/test.sh tests/test_setup.py -k pin --pdb    arguments go to pytest, one process
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
cd "$VRD_D2_ROOT"

# Names of pretrained weights fail at once instead of after 46 seconds of retries.
export HF_HUB_OFFLINE=1
# Small tensors gain nothing from threads, and the processes would fight for the cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

if [ "$#" = 0 ]; then
    set -- -n 2 tests
fi
status=0
python -m ruff check --quiet . || status=1
python -m ruff format --quiet --check . || { echo "run: ruff format" >&2; status=1; }
layers="$(lint-imports --no-cache --no-logo 2>&1)" || { echo "$layers" >&2; status=1; }
# A test of more than ten minutes shows where it hangs, instead of saying nothing.
python -m pytest -q -o faulthandler_timeout=600 "$@" || status=$?
exit "$status"
