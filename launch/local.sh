#!/usr/bin/env bash
# N processes of a command on this machine's CPU, joined by JAX's distributed runtime over loopback: a pod in small.
#
#   bash launch/local.sh 2 python -m ieat_jax.train --config configs/demo.py:write --workdir runs/two
#   DEVICES=4 bash launch/local.sh 2 COMMAND...           # 4 fake devices in each process: 8 in all
#   bash launch/local.sh --dry-run 2 COMMAND...           # print what would be started
#
# Output lines begin with the number of their process. SIGTERM and Ctrl-C are handed on as SIGTERM; what still runs GRACE
# seconds later (30 by default), or when the signal is repeated, is killed. Exit code: that of the first process that
# failed, after which the others are ended in the same way; 75 when all were stopped at request and saved. When this
# script is killed, its processes end, too. PORT names the coordinator's port, a free one by default.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dry=
if [[ ${1:-} == --dry-run ]]; then
  dry=1
  shift
fi
if (($# < 2)) || [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: bash launch/local.sh [--dry-run] N COMMAND...   (N: number of processes, 1 or more)" >&2
  exit 2
fi
count=$1
shift
[[ ${DEVICES:=1} =~ ^[1-9][0-9]*$ && ${GRACE:=30} =~ ^[0-9]+$ ]] || {
  echo "error: DEVICES=$DEVICES and GRACE=$GRACE must be whole numbers, DEVICES 1 or more" >&2
  exit 2
}
[[ -n ${VIRTUAL_ENV:-} || ! -x $ROOT/.venv/bin/python ]] || PATH=$ROOT/.venv/bin:$PATH
if [[ -z ${PORT:-} ]]; then
  PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$DEVICES"

# The environment of process $1, one assignment a line.
environment() {
  printf '%s\n' "IEAT_COORDINATOR=127.0.0.1:$PORT" "IEAT_NUM_PROCESSES=$count" "IEAT_PROCESS_ID=$1" JAX_PLATFORMS=cpu \
    "XLA_FLAGS=$flags" "IEAT_HEARTBEAT=${IEAT_HEARTBEAT:-10}"
}

# Process $1, in a subshell that outlives a signal until the command has ended and its last line is printed.
process() {
  local rank=$1
  shift
  trap : TERM INT
  set +e
  mapfile -t assignments < <(environment "$rank")
  env PYTHONUNBUFFERED=1 "${assignments[@]}" "$@" </dev/null 2>&1 | (
    trap '' TERM INT
    exec sed -u "s/^/[$rank] /"
  )
  exit "${PIPESTATUS[0]}"
}

if [[ -n $dry ]]; then
  for ((rank = 0; rank < count; rank++)); do
    mapfile -t assignments < <(environment "$rank")
    printf '%q ' env "${assignments[@]}" "$@"
    printf '\n'
  done
  exit 0
fi

running=() # rank -> process group
stop() {
  local rank
  for rank in "${!running[@]}"; do
    kill "-$1" -- "-${running[rank]}" 2>/dev/null || true
  done
}

status=0
deadline=
asked= # when this script was first asked to stop
# shellcheck disable=SC2329 # the trap calls it
leave() {
  stop TERM
  if [[ -z $asked ]]; then
    asked=$SECONDS
    deadline=$((SECONDS + GRACE))
  elif ((SECONDS > asked + 1)); then # sooner, it is the same request: process groups get it twice
    deadline=$((SECONDS + 1))
  fi
}
trap leave TERM INT

# Reads process groups, and ends them when this script does without having said "finished": when it was killed.
guard() {
  local group groups=()
  trap '' TERM INT HUP
  while read -r group; do
    [[ $group != finished ]] || return 0
    groups+=("-$group")
  done
  kill -TERM -- "${groups[@]}" 2>/dev/null || return 0
  for ((waited = 0; waited < 5 * GRACE; waited++)); do
    sleep 0.2
    kill -0 -- "${groups[@]}" 2>/dev/null || return 0
  done
  kill -KILL -- "${groups[@]}" 2>/dev/null || true
}

set -m # every process is a process group of its own, so that a signal reaches all of it
coproc GUARD { guard >&2; }
guarding=$GUARD_PID
exec {to_guard}>&"${GUARD[1]}" # the array is gone when the guard is
for ((rank = 0; rank < count; rank++)); do
  process "$rank" "$@" {to_guard}>&- &
  running[rank]=$!
  echo "${running[rank]}" >&"$to_guard"
done
set +m

while ((${#running[@]})); do
  for rank in "${!running[@]}"; do
    kill -0 "${running[rank]}" 2>/dev/null && continue
    code=0
    wait "${running[rank]}" 2>/dev/null || code=$?
    unset "running[rank]"
    if ((code == 0)) || ((status != 0 && status != 75)); then
      continue
    fi
    status=$code
    if ((code != 75)); then # 75: stopped at request, like the others
      echo "error: process $rank ended with exit code $code; ending the others" >&2
      stop TERM
      deadline=$((SECONDS + GRACE))
    fi
  done
  if [[ -n $deadline ]] && ((SECONDS > deadline)); then
    echo "error: ${#running[@]} processes still ran ${GRACE} s after they were to end, or at a second signal: killed" >&2
    stop KILL
  fi
  sleep 0.2 || true
done
echo finished >&"$to_guard"
wait "$guarding" || true
exit "$status"
