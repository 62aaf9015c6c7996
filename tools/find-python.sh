#!/bin/sh
# Print the path of an installed Python that can make the environment, or say in one sentence what is missing.
#
# Looked at, in this order: $PYTHON (then nothing else), python3.12 ... python3.14, python3 and python on PATH,
# every pyenv version, and what uv has installed. Nothing is downloaded. Each candidate is run, because a name
# on PATH proves nothing: a pyenv shim exists for versions that are not switched on.

old=''
bare=''

probe='
import sys
version = "%d.%d.%d" % sys.version_info[:3]
if sys.version_info < (3, 12) or sys.implementation.name != "cpython":
    print("old " + sys.implementation.name.replace("cpython", "Python") + " " + version)
    sys.exit()
try:
    import ensurepip, ssl, venv
except ImportError as missing:
    print("bare " + version + " " + str(missing.name))
    sys.exit()
print("good " + (getattr(sys, "_base_executable", None) or sys.executable))
'

say() {
    printf 'scaleband: %s\n' "$1" >&2
}

# Print the interpreter behind $1 and end the script if it will do; otherwise remember why not.
try() {
    answer=$("$1" -I -c "$probe" 2>/dev/null </dev/null) || return 0
    case $answer in
        'good '*)
            printf '%s\n' "${answer#good }"
            exit 0
            ;;
        'old '*) [ -n "$old" ] || old="$1 is ${answer#old }" ;;
        'bare '*) [ -n "$bare" ] || bare="$1 ${answer#bare }" ;;
    esac
}

explain_bare() { # $1: command, $2: version, $3: the missing module
    minor=${2%.*}
    say "$1 is Python $2 but has no module '$3', so it cannot make an environment; on Debian or Ubuntu: apt install python$minor-venv"
}

if [ -n "${PYTHON:-}" ]; then
    try "$PYTHON"
    if [ -n "$bare" ]; then
        # shellcheck disable=SC2086  # three words on purpose
        explain_bare "$PYTHON" ${bare#"$PYTHON "}
    elif [ -n "$old" ]; then
        say "PYTHON=$old; scaleband needs CPython 3.12 or newer."
    else
        say "PYTHON=$PYTHON cannot be run; give the path of a CPython 3.12 or newer, or leave PYTHON out."
    fi
    exit 1
fi

for name in python3.12 python3.13 python3.14 python3 python; do
    if command -v "$name" >/dev/null 2>&1; then
        try "$name"
    fi
done

# pyenv keeps its versions apart from PATH. Its folder is named by PYENV_ROOT, by its own command, or by where
# its shims and its command lie; HOME alone is not enough (another user, a container).
try_pyenv() {
    [ -n "$1" ] && [ -d "$1/versions" ] || return 0
    for wanted in 3.12 3.13 3.14 ''; do
        for found in "$1/versions/$wanted"*/bin/python3; do
            if [ -x "$found" ]; then
                try "$found"
            fi
        done
    done
}

try_pyenv "${PYENV_ROOT:-}"
try_pyenv "${HOME:-}/.pyenv"
if command -v pyenv >/dev/null 2>&1; then
    try_pyenv "$(pyenv root 2>/dev/null </dev/null)"
    place=$(command -v pyenv)
    try_pyenv "${place%/bin/pyenv}"
fi
rest=$PATH:
while [ -n "$rest" ]; do
    folder=${rest%%:*}
    rest=${rest#*:}
    case $folder in
        */shims) try_pyenv "${folder%/shims}" ;;
    esac
done

if command -v uv >/dev/null 2>&1; then
    found=$(uv python find --system --no-python-downloads '>=3.12' 2>/dev/null </dev/null) && try "$found"
fi

if [ -n "$bare" ]; then
    # shellcheck disable=SC2086
    explain_bare $bare
elif [ -n "$old" ]; then
    say "no Python 3.12 or newer found ($old); install one, or name one: make test PYTHON=/path/to/python3.12"
else
    say "no Python found; install CPython 3.12 or newer, or name one: make test PYTHON=/path/to/python3.12"
fi
exit 1
