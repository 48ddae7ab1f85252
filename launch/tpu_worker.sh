#!/usr/bin/env bash
# One host of a Cloud TPU slice: launch/tpu_vm.sh calls this there over ssh.
#
#   bash launch/tpu_worker.sh install tpu               # the environment, with these extras of pyproject.toml
#   bash launch/tpu_worker.sh run ATTEMPT COMMAND...    # run it, print what it prints, end with its exit code
#   bash launch/tpu_worker.sh stop                      # let what runs save and end
#
# A command that runs has no tie to the ssh connection it was started over. When the connection is lost, `run` with the
# same ATTEMPT shows what goes on, or how it ended; with another one it ends what still runs and starts afresh. Stopping
# is SIGTERM, then SIGKILL after GRACE seconds (300). The command finds the other hosts by IEAT_COORDINATOR,
# IEAT_NUM_PROCESSES and IEAT_PROCESS_ID, made of what the metadata server knows.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ATTEMPTS=${HOME:?}/.ieat_jax/attempts # a folder each: pid, log and, at the end, code
COORDINATOR_PORT=8482                 # 8471 to 8479 and 8080 are libtpu's
LOCK=/tmp/libtpu_lockfile             # which stays when a process is killed

# The environment, with a Python of its own where the machine's are too old (Ubuntu 22.04's is).
install() {
  cd "$IEAT_ROOT"
  if [[ ! -x ${IEAT_VENV:-.venv}/bin/python ]] && ! (_find_python) >/dev/null 2>&1; then
    python3 -m pip install --quiet --user uv
    python3 -m uv python install --quiet 3.11
    PYTHON=$(python3 -m uv python find --managed-python 3.11)
  fi
  ieat_setup "$1"
}

metadata() {
  curl -sSf --retry 6 --retry-connrefused -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

# Which process this host runs, of how many, and where the first one is, as jax.distributed would find out.
join_others() {
  local worker tpu_env hosts slice slices coordinator
  worker=$(metadata agent-worker-number) || fail "the metadata server knows no agent-worker-number: no Cloud TPU host"
  IFS=, read -r -a hosts <<<"$(metadata worker-network-endpoints)"
  tpu_env=$(metadata tpu-env 2>/dev/null) || tpu_env=
  slices=$(tpu_env MEGASCALE_NUM_SLICES)
  slice=$(tpu_env MEGASCALE_SLICE_ID)
  coordinator=$(tpu_env MEGASCALE_COORDINATOR_ADDRESS)
  coordinator=${coordinator:-${hosts[0]##*:}} # of NAME:ID:ADDRESS, or an address alone
  export IEAT_COORDINATOR=${coordinator%%:*}:$COORDINATOR_PORT
  export IEAT_NUM_PROCESSES=$((${#hosts[@]} * ${slices:-1}))
  export IEAT_PROCESS_ID=$((${slice:-0} * ${#hosts[@]} + worker))
}

# A line of the metadata tpu-env, like MEGASCALE_NUM_SLICES: '2'.
tpu_env() { sed -n "s/^ *$1: *'\{0,1\}\([^']*\)'\{0,1\} *$/\1/p" <<<"$tpu_env"; }

# Whether the attempt in a folder runs.
runs() {
  local pid
  [[ ! -e $1/code && -e $1/pid ]] && pid=$(cat "$1/pid") && grep -qa tpu_worker "/proc/$pid/cmdline" 2>/dev/null
}

stop() {
  local folder deadline=$((SECONDS + ${GRACE:-300}))
  for folder in "$ATTEMPTS"/*/; do
    runs "$folder" && kill -TERM "$(cat "$folder/pid")" || true
  done
  for folder in "$ATTEMPTS"/*/; do
    while runs "$folder"; do
      ((SECONDS < deadline)) || pkill -KILL --session "$(cat "$folder/pid")" || true
      sleep 0.2
    done
  done
}

# In a session of its own: the command, and its exit code in a file when it has ended.
supervise() {
  local folder=$1 code=0
  shift
  printf '%s' "$$" >"$folder/pid"
  run_interruptible "$@" >"$folder/log" 2>&1 || code=$?
  printf '%s' "$code" >"$folder/code.new"
  mv "$folder/code.new" "$folder/code"
}

run() {
  local folder=$ATTEMPTS/$1 code
  shift
  if [[ ! -d $folder ]]; then
    stop
    rm -f "$LOCK" 2>/dev/null || true
    join_others
    PATH=${IEAT_VENV:-$IEAT_ROOT/.venv}/bin:$PATH
    mkdir -p "$folder"
    touch "$folder/log"
    PYTHONUNBUFFERED=1 setsid bash "${BASH_SOURCE[0]}" supervise "$folder" "$@" </dev/null >/dev/null 2>&1 &
    printf '%s' "${IEAT_PROCESS_ID:?}" >"$folder/process"
    while [[ ! -e $folder/pid ]]; do sleep 0.1; done
  fi
  tail -n +1 --sleep-interval=0.5 --pid="$(cat "$folder/pid")" -f "$folder/log" |
    sed -u "s/^/[$(cat "$folder/process")] /"
  [[ -e $folder/code ]] || {
    echo "error: what ran here was killed, or the host was started again" >&2
    exit 1
  }
  code=$(cat "$folder/code")
  ((code != 255)) || code=1 # 255 is ssh's own
  exit "$code"
}

case ${1:-} in
  install | run | stop | supervise) "$@" ;;
  *) fail "usage: bash launch/tpu_worker.sh install EXTRAS | run ATTEMPT COMMAND... | stop" ;;
esac
