#!/usr/bin/env bash
# Training on Cloud TPU VMs: asks for them through queued resources, waits, installs ieat_jax on all hosts, trains,
# starts again what was interrupted, and deletes the machines at the end.
#
#   bash launch/tpu_vm.sh --name align --zone us-west4-a --accelerator v5e-256 \
#       --setup 'mountpoint -q /mnt/runs || sudo mount -o nolock 10.0.0.2:/runs /mnt/runs' \
#       --config configs/mine.py:align --workdir /mnt/runs/align --config.train.steps=20000
#
#   --name NAME          of the queued resource. One that is there already is taken up
#   --zone ZONE          of the TPUs
#   --accelerator NAME   v5e-N, v5p-N or v6e-N: ieat_jax/costs/hardware.py has the list
#   --config FILE[:ARG]  the recipe, in this repository, and --config.FIELD=VALUE for any of its fields
#   --workdir PATH       the run's folder, where all hosts see it
#   --setup COMMAND      on every host, before the first start: mount what --workdir and the data are on
#   --slices N           several slices, joined by Multislice (1)
#   --project PROJECT    instead of gcloud's default
#   --spot, --reserved, --best-effort    the capacity asked for; --best-effort takes `gcloud alpha`
#   --runtime VERSION    another software of the machines than ieat_jax/costs/hardware.py names
#   --extras EXTRAS      of pyproject.toml (tpu)
#   --create FLAG        for `queued-resources create`, like --create=--valid-until-duration=6h; may be given again
#   --ssh FLAG           for `tpu-vm ssh` and `tpu-vm scp`, like --ssh=--internal-ip; may be given again
#   --iap                connect through Identity-Aware Proxy, to hosts without an address outside; by `gcloud alpha`
#   --max-restarts K     after failures one after the other (10); one that took an hour to come counts as the first
#   --keep               leave the machines at the end. They cost money until they are deleted
#   --dry-run            print the commands and start nothing
#
# Exit code 75 of training, stopped at request: it starts again at once. 2, wrong use: the end. Any other: again after
# 10, 20, 40, ... 300 seconds. Machines that were taken away are asked for again. Ctrl-C or SIGTERM lets training save,
# then exits with 75; the same call goes on from there. The script has to stay up as long as training runs: start it in
# tmux, or on a small machine of the same project. BACKOFF (10) and POLL (30, between looks at the queued resource) are
# seconds. Flags in LIBTPU_INIT_ARGS are added to libtpu's.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source-path=SCRIPTDIR source=machines.sh
. "$(dirname "${BASH_SOURCE[0]}")/machines.sh"

needed=(name zone accelerator config workdir)
taken=(setup slices project runtime extras max-restarts)
repeated=(create ssh)
switches=(spot reserved best-effort iap keep dry-run)
read_options "$@"
match name '[a-z]([-a-z0-9]{0,38}[a-z0-9])?' "40 small letters, digits and - at most, like align-2"
match zone '[a-z0-9-]+' "a zone, like us-west4-a"
match extras '[a-z]+(,[a-z]+)*' "extras of pyproject.toml, like tpu,demo"
[[ ${BACKOFF:=10} =~ ^[0-9]+$ && ${POLL:=30} =~ ^[0-9]+$ ]] ||
  fail "BACKOFF=$BACKOFF and POLL=$POLL must be whole numbers of seconds"
find_slice "${option[accelerator]}"
slices=$(number slices 1 1)
max_restarts=$(number max-restarts 10 0)
training_command
recipe_is_here
dry=${option[dry-run]:-}
name=${option[name]}

scope=("--zone=${option[zone]}" ${option[project]:+"--project=${option[project]}"})
mapfile -t create_flags < <(given create)
mapfile -t ssh_flags < <(given ssh)
gcloud=(gcloud)
capacity=()
for each in spot reserved best-effort; do
  [[ -z ${option[$each]:-} ]] || capacity+=("--$each")
done
((${#capacity[@]} < 2)) || fail "${capacity[*]}: only one of them can be asked for"
[[ ${capacity[*]} != --best-effort ]] || gcloud+=(alpha)
if ((slices == 1)); then
  nodes=("$name")
  count=("--node-id=$name")
else
  mapfile -t nodes < <(seq -f "$name-%.0f" 0 $((slices - 1)))
  count=("--node-count=$slices" "--node-prefix=$name")
fi
create=("${gcloud[@]}" compute tpus queued-resources create "$name" "--accelerator-type=$slice_type"
  "--runtime-version=${option[runtime]:-$slice_software}" "${count[@]}" "${scope[@]}" "${capacity[@]}"
  "${create_flags[@]}")
describe=(gcloud compute tpus queued-resources describe "$name" "${scope[@]}" '--format=value(state.state)')
delete=(gcloud compute tpus queued-resources delete "$name" "${scope[@]}" --force --quiet)
# Not `queued-resources ssh`: it leaves out slices that it cannot reach, with exit code 0, and starts 64 hosts at most.
tpu_vm=(gcloud compute tpus tpu-vm)
if [[ -n ${option[iap]:-} ]]; then
  tpu_vm=(gcloud alpha compute tpus tpu-vm)
  ssh_flags+=(--tunnel-through-iap)
fi
alive=(--ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=6) # else a host that is gone is waited for

session=$(date +%Y%m%d-%H%M%S) # what other calls on the same machines left there has other names
temporary=/tmp/ieat_jax-launch
[[ -n $dry ]] || temporary=$(mktemp -d)
sent=ieat_jax-$session.tar.gz
archive=$temporary/$sent
pack=(tar -czf "$archive" -C "$IEAT_ROOT" --exclude=__pycache__ pyproject.toml README.md ieat_jax configs launch)
# Ends with 1 whatever fails: 2 is gcloud's own, for flags that it does not know.
prepare="{ { test ! -e ieat_jax/launch/tpu_worker.sh || bash ieat_jax/launch/tpu_worker.sh stop; } &&"
prepare+=" rm -rf ieat_jax/ieat_jax ieat_jax/configs ieat_jax/launch && mkdir -p ieat_jax &&"
prepare+=" tar -xzf $sent -C ieat_jax && rm $sent && bash ieat_jax/launch/tpu_worker.sh install ${option[extras]:-tpu}"
prepare+="${option[setup]:+" && $(show bash -c "${option[setup]}")"}; } || exit 1"

run_command() {
  show bash ieat_jax/launch/tpu_worker.sh run "$session-$1" env "LIBTPU_INIT_ARGS=$libtpu_init_args" "${training[@]}"
}

# The commands of one step, for every node.
ssh_commands() {
  local node
  for node in "${nodes[@]}"; do
    show "${tpu_vm[@]}" ssh "$node" "${scope[@]}" --worker=all --quiet "${alive[@]}" "${ssh_flags[@]}" "--command=$1"
  done
}

copy_commands() {
  local node
  for node in "${nodes[@]}"; do
    show "${tpu_vm[@]}" scp "$archive" "$node:$sent" "${scope[@]}" --worker=all --quiet "${ssh_flags[@]}"
  done
}

stopping=  # set once somebody asks for it
signalled= # set when a signal came during a wait
napping=   # the sleep that is waited for
stopper=   # tells training to stop
asked=     # for the queued resource
exists=    # it does
running=   # training does
prepared=  # the hosts have everything

# wait_for PID: its exit code, whatever signals come meanwhile.
wait_for() {
  local code
  while :; do
    code=0
    signalled=
    wait "$1" || code=$?
    [[ -n $signalled ]] || return "$code"
  done
}

# nap SECONDS: or until somebody asks for a stop. One who asked just before it is heard by the look at `stopping`, one who
# asks later ends the sleep itself: a look alone could miss a signal between it and `wait`.
nap() {
  sleep "$1" &
  napping=$!
  [[ -n $stopping ]] || wait "$napping" || true
  kill "$napping" 2>/dev/null || true
  napping=
}

# on_all COMMANDS: one a line, all at once, away from the terminal's Ctrl-C. The exit code is a failure's if one failed.
on_all() {
  local line pid code worst=0 pids=()
  set -m
  while IFS= read -r line; do
    bash -c "$line" </dev/null &
    pids+=($!)
  done <<<"$1"
  set +m
  for pid in "${pids[@]}"; do
    code=0
    wait_for "$pid" || code=$?
    if ((worst == 0 || worst == STOPPED && code != 0)); then
      worst=$code
    fi
  done
  return "$worst"
}

ask_to_stop() {
  signalled=1
  [[ -z $stopping ]] || return 0
  stopping=1
  say "asked to stop"
  [[ -z $napping ]] || kill "$napping" 2>/dev/null || true
  if [[ -n $running ]]; then
    say "training saves and ends"
    # Again until it has ended: where the first request was faster than the connection that starts training, nothing ran.
    while :; do
      on_all "$(ssh_commands "bash ieat_jax/launch/tpu_worker.sh stop")" || true
      sleep 5
    done &
    stopper=$!
  fi
}

leave() {
  local code=$?
  trap - EXIT INT TERM
  if [[ -n $asked && -z $exists && $(state) != ABSENT ]]; then # the asking was interrupted
    exists=1
  fi
  rm -rf "$temporary"
  if [[ -n $exists && -n ${option[keep]:-} ]]; then
    say "$name is kept and costs money until you delete it: $(show "${delete[@]}")"
  elif [[ -n $exists ]]; then
    say "deleting $name"
    "${delete[@]}" || {
      echo "error: $name could not be deleted and costs money; delete it: $(show "${delete[@]}")" >&2
      ((code)) || code=1
    }
  fi
  exit "$code"
}

state() {
  local said
  if said=$("${describe[@]}" 2>"$temporary/errors"); then
    printf '%s' "$said"
  elif grep -qi 'not.found' "$temporary/errors"; then
    printf ABSENT
  else
    cat "$temporary/errors" >&2
    return 1
  fi
}

# Wait until the machines are there, and ask for them if they are not, or no more.
machines() {
  local state last='' created='' misses=0
  while [[ -z $stopping ]]; do
    if ! state=$(state); then
      misses=$((misses + 1))
      if [[ -z $exists ]] || ((misses == 10)); then
        exit 1
      fi
      nap "$POLL"
      continue
    fi
    misses=0
    [[ $state == "$last" ]] || say "$name: $state"
    last=$state
    case $state in
      ACTIVE)
        exists=1
        return
        ;;
      ABSENT)
        show "${create[@]}"
        asked=1
        "${create[@]}"
        exists=1
        created=1
        prepared=
        failures=0 # of other machines
        ;;
      FAILED | SUSPENDED)
        exists=1
        if [[ $state == FAILED && -n $created ]]; then
          gcloud compute tpus queued-resources describe "$name" "${scope[@]}" >&2 || true
          echo "error: the request for $name failed; the reason stands above" >&2
          exit 1
        fi
        "${delete[@]}"
        ;;
      *)
        exists=1
        nap "$POLL"
        ;;
    esac
  done
  exit "$STOPPED"
}

# gcloud copies to several hosts only with its key in the ssh-agent, where there is one: better to know before the
# machines cost money.
key_is_in_agent() {
  local key=$HOME/.ssh/google_compute_engine mark listed code=0
  if ((slice_hosts > 1)) && [[ -e $key ]] && mark=$(ssh-keygen -lf "$key" 2>/dev/null); then
    listed=$(ssh-add -l 2>/dev/null) || code=$?
    read -r _ mark _ <<<"$mark"
    ((code > 1)) || [[ $listed == *"$mark"* ]] ||
      fail "gcloud's ssh key is not in your ssh-agent, and copying to several hosts needs it: ssh-add $key"
  fi
}

send_and_install() {
  say "copying and installing on $((slices * slice_hosts)) hosts"
  "${pack[@]}" && on_all "$(copy_commands)" && on_all "$(ssh_commands "$prepare")"
}

if [[ -n $dry ]]; then
  show "${create[@]}"
  show "${describe[@]}"
  show "${pack[@]}"
  copy_commands
  ssh_commands "$prepare"
  ssh_commands "$(run_command 1)"
  [[ -n ${option[keep]:-} ]] || show "${delete[@]}"
  exit 0
fi

trap leave EXIT
command -v gcloud >/dev/null || fail "there is no gcloud here: install it, or see the commands with --dry-run"
key_is_in_agent
trap ask_to_stop INT TERM
attempt=1
failures=0
while :; do
  machines
  code=0
  began=$SECONDS
  what=installation
  if [[ -z $prepared ]]; then
    if send_and_install; then
      prepared=1
    else
      code=$?
    fi
    [[ -z $stopping ]] || exit "$STOPPED"
  fi
  if ((code == 0)); then
    what=training
    say "training, start $attempt"
    running=1
    on_all "$(ssh_commands "$(run_command "$attempt")")" || code=$?
    running=
    [[ -z $stopper ]] || kill "$stopper" 2>/dev/null || true
    ((code == 255)) || attempt=$((attempt + 1)) # 255: the connection was lost, training may go on
  fi
  if [[ -n $stopping ]] && ((code == 143)); then # before it could listen: what was saved last stays
    exit "$STOPPED"
  fi
  case $code in
    0)
      say "finished: ${option[workdir]}"
      exit 0
      ;;
    "$STOPPED")
      [[ -z $stopping ]] || exit "$STOPPED"
      say "training was stopped and has saved: starting it again"
      continue
      ;;
    "$WRONG_USE")
      echo "error: $what cannot work like this; the reason stands above" >&2
      exit "$code"
      ;;
  esac
  [[ -z $stopping ]] || exit "$code"
  ((SECONDS - began < 3600)) || failures=0
  failures=$((failures + 1))
  if ((failures > max_restarts)); then
    echo "error: $what ended with exit code $code, $failures times one after the other; giving up" >&2
    exit "$code"
  fi
  pause=$((BACKOFF << (failures - 1 < 5 ? failures - 1 : 5)))
  ((pause <= 300)) || pause=300
  say "$what ended with exit code $code: again in $pause s ($failures of $max_restarts)"
  nap "$pause"
done
