# Sourced by the scripts beside it: finds Python 3.11 or newer, and keeps environments in the checkout.
#   prepare FOLDER EXTRAS     makes or refreshes one; afterwards "$VENV" is its path
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    echo "$1" >&2
    exit 1
}

find_python() {
    for PYTHON in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then return; fi
    done
    fail "found no Python 3.11 or newer; install one: sudo apt-get install python3.11 python3.11-venv"
}

prepare() {
    VENV=$ROOT/$1
    find_python
    # What is installed depends on these; an environment made for the same is used again, so a second run starts at once.
    stamp="$2 $("$PYTHON" -c 'import sys; print(sys.version, sys.executable)' | tr '\n' ' ') $(
        cat "$ROOT/pyproject.toml" "$ROOT/scripts/dependencies.py" | cksum
    )"
    if [ "$(cat "$VENV/made-for" 2>/dev/null)" = "$stamp" ]; then return; fi
    echo "preparing $VENV (once, a minute or so) ..." >&2
    # PyPI has no numpy for 32-bit ARM: there the system's is used (sudo apt-get install python3-numpy python3-pil)
    bits=$("$PYTHON" -c 'import struct; print(struct.calcsize("P") * 8)')
    rm -rf "$VENV"
    "$PYTHON" -m venv $([ "$bits" = 32 ] && echo --system-site-packages) "$VENV" ||
        fail "the environment cannot be made; install venv: sudo apt-get install python3-venv"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$ROOT$2" >&2 ||
        fail "the packages cannot be installed; is there a network? (it is needed once, for this step alone)"
    echo "$stamp" >"$VENV/made-for"
}
