#!/usr/bin/env bash
# Makes the Python environment ready: virtual environment, pinned packages, Detectron2, project.
# Needs Python 3.11 to 3.13 and pip; takes well under a second once nothing is left to do.
#
# Run it:          bash tools/setup_environment.sh
# Or source it in a script, which also puts the environment's `python` first on PATH:
#     set -euo pipefail
#     source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"    # ends the script on failure
#     python tools/train_net.py ...
# Sourcing sets VRD_D2_ROOT (the checkout) and, if none was active, VIRTUAL_ENV; shell options and
# the working directory stay as they are.
#
# Which environment: the active one (VIRTUAL_ENV), otherwise .venv in the checkout.
#   - .venv, and an active environment without torch, get exactly tools/requirements.txt;
#   - in an active environment that has torch, it stays, whatever its version: only packages that are
#     missing or outside the ranges of setup.py are installed.
#
# VRD_D2_PYTHON      interpreter to make .venv with (default: the first fitting one on PATH)
# VRD_D2_DETECTRON2  pip requirement to install Detectron2 from, for example a folder or
#                    git+https://github.com/facebookresearch/detectron2 (needs git and a compiler).
#                    Default: the wheel of tools/requirements-detectron2.txt, and that only where
#                    Detectron2 cannot be imported yet.

VRD_D2_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ "${BASH_SOURCE[0]}" != "$0" ]; then
    bash "${BASH_SOURCE[0]}" || return 1
    export VRD_D2_ROOT VIRTUAL_ENV="${VIRTUAL_ENV:-$VRD_D2_ROOT/.venv}"
    export PATH="$VIRTUAL_ENV/bin:$PATH"
    hash -r
    return 0
fi

set -euo pipefail
environment="${VIRTUAL_ENV:-$VRD_D2_ROOT/.venv}"
python="$environment/bin/python"
stamp="$environment/.vrd_d2_setup"
cd "$VRD_D2_ROOT"

say() { echo "setup: $*" >&2; }
die() { say "error: $*"; exit 1; }

state() { # of everything that decides what gets installed
    cat setup.py vrd_d2/version.py tools/requirements*.txt tools/setup_environment.sh | cksum
    echo "$VRD_D2_ROOT ${VRD_D2_DETECTRON2:-}"
}

supported() { # PYTHON
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() { # runs each candidate, as a name on PATH may be a launcher without an interpreter
    local candidate
    for candidate in ${VRD_D2_PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    if [ -n "${VRD_D2_PYTHON:-}" ]; then
        die "VRD_D2_PYTHON=$VRD_D2_PYTHON is not a Python 3.11, 3.12 or 3.13 that runs"
    fi
    die "no Python 3.11, 3.12 or 3.13 on PATH ($(python3 --version 2>&1 || true) is not" \
        "supported): install one, or set VRD_D2_PYTHON to its interpreter"
}

make_environment() {
    local base
    base="$(find_python)"
    say "making $environment with $("$base" --version)"
    # Some systems ship Python without ensurepip; the pip beside it can then fill in.
    "$base" -m venv --clear "$environment" >/dev/null 2>&1 ||
        { "$base" -m venv --clear --without-pip "$environment" &&
            "$base" -m pip --python "$python" install --quiet pip; } ||
        die "$base could not make a virtual environment at $environment: install its venv module" \
            "(python3-venv), or activate another environment and run this again"
}

install() { # WHAT PIP-ARGUMENTS...
    local what="$1"
    shift
    say "installing $what"
    python -m pip install -qq --disable-pip-version-check "$@" ||
        die "pip could not install $what into $environment (its message is above)." \
            "Check the network or the package index (PIP_INDEX_URL, PIP_FIND_LINKS) and the free" \
            "disk space (a CUDA build of torch takes 5.5 GB), then run this again:" \
            "what is installed already stays"
}

has() { python -c "import $1" 2>/dev/null; }

install_detectron2() {
    if [ -n "${VRD_D2_DETECTRON2:-}" ]; then
        # Both packages own the folder detectron2. No dependencies: they are there already, and
        # upstream's caps would undo the pinned ones.
        python -m pip uninstall --quiet --yes sal-detectron2 2>/dev/null || true
        install "Detectron2 from $VRD_D2_DETECTRON2" \
            --no-deps --no-build-isolation "$VRD_D2_DETECTRON2"
    elif ! has detectron2; then
        # The wheel is tagged for CPython 3.10 alone, which pip accepts only with both the version
        # and a target folder given.
        install "Detectron2" --no-deps --require-hashes --only-binary=:all: \
            --python-version 3.10 --implementation cp \
            --target "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
            -r tools/requirements-detectron2.txt
    fi
    has detectron2 || die "Detectron2 does not import in $environment: try" \
        "'$python -c \"import detectron2\"', or name another source in VRD_D2_DETECTRON2"
}

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(state)" ]; then
    exit 0
fi

if [ -z "${VIRTUAL_ENV:-}" ]; then
    "$python" -m pip --version >/dev/null 2>&1 || make_environment
fi
supported "$python" ||
    die "$python is not a Python 3.11, 3.12 or 3.13: activate another environment, or none"
export PATH="$environment/bin:$PATH"

if [ "$environment" = "$VRD_D2_ROOT/.venv" ] || ! has torch; then
    install "the packages of tools/requirements.txt (minutes, once)" -r tools/requirements.txt
    project=(--no-deps)
else
    present="$environment/.vrd_d2_present.txt"
    python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >"$present"
    say "leaving $(cat "$present") of $environment"
    project=(--constraint "$present")
    # setup.py does not require OpenCV, because either of its two packages will do.
    has cv2 || project+=(opencv-python-headless)
    install "what setup.py requires and is not in $environment" "setuptools>=70.1,<81"
fi
install_detectron2
install "vrd_d2, editable" "${project[@]}" --no-build-isolation --use-pep517 -e ".[test]"
state >"$stamp"
say "ready: $environment ($(python --version))"
