#!/bin/sh
# Make .venv and install scaleband into it, editable: from requirements.lock, everything that tests and trainings use, or
# with `demo` as the first argument from requirements-demo.lock, the package's own needs alone. A second call ends at once
# unless a lock, pyproject.toml, this script or the folder's place changed, or more is asked for than is there.
#
# Only wheels, only the locked ones, each checked against its hash: no compiler, and the same build in a year.
set -eu

cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_NO_BINARY
export PIP_DISABLE_PIP_VERSION_CHECK=1
stamp=.venv/.made-from
want=${1:-full}
case $want in
full) lock=requirements.lock size='about 8 GB of disk (torch brings CUDA)' long='a few minutes, once; torch is most of it' ;;
demo) lock=requirements-demo.lock size='about 2 GB of disk' long='a minute or two, once' ;;
*)
    printf 'usage: setup.sh [full|demo]\n' >&2
    exit 2
    ;;
esac

say() {
    printf 'scaleband: %s\n' "$1" >&2
}

here=$(pwd -P)
inputs=$(cat pyproject.toml requirements.lock requirements-demo.lock tools/setup.sh | cksum)

# The stamp: the clone's place, the interpreter, the inputs, full or demo; written last, so a broken set-up is done again.
made_here='' made_by='' made_of='' made_kind=''
if [ -f "$stamp" ]; then
    { read -r made_here && read -r made_by && read -r made_of && read -r made_kind; } <"$stamp" || true
fi

works() {
    .venv/bin/python -I -c 'import pip, sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

# A PYTHON that somebody names must be the one in use.
python=''
if [ -n "${PYTHON:-}" ]; then
    python=$(sh tools/find-python.sh)
fi

if ! works; then
    fit=no # none yet, or broken
elif [ -f "$stamp" ] && [ "$made_here" != "$here" ]; then
    fit=no # an environment does not survive a move
elif [ -n "$python" ] && [ "$made_by" != "$python" ]; then
    fit=no
elif [ -f "$stamp" ] && [ "$made_of" = "$inputs" ] && { [ "$made_kind" = full ] || [ "$made_kind" = "$want" ]; }; then
    exit 0
else
    fit=stale # bring it up to date in place
fi

if [ "$fit" = no ]; then
    [ -n "$python" ] || python=$(sh tools/find-python.sh)
    say "making .venv with $python"
    if ! "$python" -m venv --clear .venv; then
        say "$python could not make .venv (its message is above); try another: make test PYTHON=/path/to/python3.12"
        exit 1
    fi
fi

rm -f "$stamp"
say "installing the locked packages into .venv ($long)"
if ! .venv/bin/python -m pip install --quiet --no-input --require-hashes --only-binary :all: -r "$lock"; then
    say "the locked packages could not be installed (pip's message is above). This step needs a Python package index within reach, and $size; then run the same command again."
    exit 1
fi
if ! .venv/bin/python -m pip install --quiet --no-input --no-index --no-build-isolation --no-deps -e .; then
    say "scaleband itself could not be installed into .venv (pip's message is above)."
    exit 1
fi
if ! checked=$(.venv/bin/python -m pip check 2>&1); then
    printf '%s\n' "$checked" >&2
    say "$lock does not fit pyproject.toml; bring it up to date with: make lock"
    exit 1
fi

base=$(.venv/bin/python -I -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)')
printf '%s\n%s\n%s\n%s\n' "$here" "$base" "$inputs" "$want" >"$stamp"
