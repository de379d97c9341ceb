#!/bin/sh
# Prints the path of a Python >= 3.12 that can make a virtual environment.
#
# Tries, in this order: $PYTHON; python3.13, python3.12, python3 on PATH; pyenv's
# versions; uv, which may download one into .venv/uv-python. Each is run, not only
# looked for: a pyenv shim exists for versions that it then refuses to start.
set -u

# ensurepip is a package of its own on Debian; without it `-m venv` fails half way.
check='import sys, venv, ensurepip
sys.version_info >= (3, 12) or sys.exit(1)
print(sys.executable)'

try() {
    found=$("$1" -c "$check" 2>/dev/null </dev/null) && [ -n "$found" ] || return 1
    printf '%s\n' "$found"
    exit 0
}

if [ -n "${PYTHON:-}" ]; then
    try "$PYTHON"
    printf '%s\n' "PYTHON=$PYTHON is not a working Python >= 3.12 with venv; looking further." >&2
fi

for name in python3.13 python3.12 python3; do
    try "$name"
done

for path in "${PYENV_ROOT:-/nonexistent}"/versions/3.1[2-9]*/bin/python3 \
    "${HOME:-/nonexistent}"/.pyenv/versions/3.1[2-9]*/bin/python3; do
    [ -x "$path" ] && try "$path"
done

if command -v uv >/dev/null 2>&1; then
    # Everything stays inside .venv: no interpreter elsewhere, no link in ~/.local/bin.
    UV_PYTHON_INSTALL_DIR=$PWD/.venv/uv-python
    UV_PYTHON_INSTALL_BIN=0
    export UV_PYTHON_INSTALL_DIR UV_PYTHON_INSTALL_BIN
    uv python install --quiet 3.12 >&2 </dev/null
    for path in "$UV_PYTHON_INSTALL_DIR"/*/bin/python3.12; do
        [ -x "$path" ] && try "$path"
    done
fi

printf '%s\n' >&2 \
    "No Python >= 3.12 with the venv module was found. Install one, in one of these ways:" \
    "    Debian, Ubuntu   apt install python3.12 python3.12-venv" \
    "    macOS            brew install python@3.12" \
    "    pyenv            pyenv install 3.12" \
    "    uv               https://docs.astral.sh/uv/ (then 'make setup' fetches Python)" \
    "or name one: make setup PYTHON=/path/to/python3.12"
exit 1
