#!/usr/bin/env bash
# Sourced after setup.sh by the launchers for real machines: where slices are looked up, libtpu's flags, how options are
# read.

# The exit codes of training that launchers act on. Any other is a failure that may pass.
# shellcheck disable=SC2034
STOPPED=75 WRONG_USE=2

# Collectives beside computation, and more of the vector memory for fusions: by the compiler's own estimate 18 to 25 %
# less computing time on v5p and v6e. Never in XLA_FLAGS: a run on CPU does not know them and aborts. What the caller
# has in LIBTPU_INIT_ARGS comes last and wins.
TPU_FLAGS=(
  --xla_tpu_enable_async_collective_fusion=true
  --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
  --xla_tpu_enable_async_collective_fusion_multiple_steps=true
  --xla_tpu_overlap_compute_collective_tc=true
  --xla_enable_async_all_gather=true
  --xla_tpu_scoped_vmem_limit_kib=98304
)
# shellcheck disable=SC2034
libtpu_init_args="${TPU_FLAGS[*]}${LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}"

# hardware WORD...: lines of the table in ieat_jax/costs/hardware.py. Any Python 3.11 or newer prints them, without packages.
hardware() {
  local candidate
  for candidate in "${PYTHON:-python3}" "$IEAT_ROOT/.venv/bin/python" python3.11 python3.12 python3.13 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      PYTHONPATH=$IEAT_ROOT PYTHONDONTWRITEBYTECODE=1 "$candidate" -m ieat_jax.costs.hardware "$@"
      return
    fi
  done
  fail "found no Python 3.11 or newer, which reads the list of slices: install one, or name it by PYTHON"
}

# find_slice NAME: its line of the table, as slice_type, slice_software, slice_gke and so on.
find_slice() {
  local line
  line=$(hardware slice "$1") || exit "$WRONG_USE"
  # shellcheck disable=SC2034
  read -r _ slice_type slice_software slice_gke slice_topology slice_hosts slice_chips <<<"$line"
}

# read_options WORD...: into `option` (name -> value), `lists` (what may be given again, one NAME=VALUE each) and
# `overrides`. A launcher says what it takes in `needed` and `taken` (with a value), `repeated` (with a value, again and
# again) and `switches` (without).
needed=() taken=() repeated=() switches=()
declare -A option=()
lists=()
overrides=()
read_options() {
  local word name value
  while (($#)); do
    word=$1
    shift
    case $word in
      -h | --help)
        sed -n '2,/^set -/ { /^set -/d; s/^# \{0,1\}//; p }' "$0"
        exit 0
        ;;
      --config.?*=*)
        overrides+=("$word")
        continue
        ;;
      --config.*) fail "$word: give overrides as --config.FIELD=VALUE" ;;
      --?*) name=${word#--} name=${name%%=*} ;;
      *) fail "$word: expected an option; bash launch/${0##*/} --help lists them" ;;
    esac
    if [[ " ${switches[*]} " == *" $name "* ]]; then
      [[ $word != *=* ]] || fail "--$name takes no value"
      option[$name]=1
      continue
    fi
    [[ " ${needed[*]} ${taken[*]} ${repeated[*]} " == *" $name "* ]] ||
      fail "--$name is not an option; bash launch/${0##*/} --help lists them"
    if [[ $word == *=* ]]; then
      value=${word#*=}
    else
      (($#)) || fail "--$name needs a value"
      value=$1
      shift
    fi
    [[ -n $value && $value != *$'\n'* ]] || fail "--$name needs a value of one line"
    if [[ " ${repeated[*]} " == *" $name "* ]]; then
      lists+=("$name=$value")
    else
      [[ $value != --* ]] || fail "--$name needs a value, not $value"
      option[$name]=$value
    fi
  done
  for name in "${needed[@]}"; do
    [[ -n ${option[$name]:-} ]] || fail "--$name is missing; bash launch/${0##*/} --help shows how to call this script"
  done
}

# given NAME: the values of an option that may be given again, one a line.
given() {
  local each
  for each in "${lists[@]}"; do
    [[ $each != "$1="* ]] || printf '%s\n' "${each#*=}"
  done
}

# number NAME DEFAULT LEAST: the value of an option that is a whole number.
number() {
  local value=${option[$1]:-$2}
  if [[ ! $value =~ ^(0|[1-9][0-9]{0,5})$ ]] || ((value < $3)); then
    fail "--$1 $value must be a whole number, $3 or more"
  fi
  printf '%s' "$value"
}

# match NAME PATTERN WORDS: an option's value must match a regular expression.
match() {
  [[ -z ${option[$1]:-} || ${option[$1]} =~ ^$2$ ]] || fail "--$1 ${option[$1]} must be $3"
}

# training_command: `training`, what every process runs, of --config, --workdir and the overrides.
training_command() {
  case ${option[workdir]} in
    *://*) fail "--workdir ${option[workdir]}: a run cannot be written to a bucket's address yet; mount the bucket" \
      "on every host (gcsfuse), or use Filestore or NFS, and give the path there, like --workdir /mnt/runs/align" ;;
    /*) ;;
    *) fail "--workdir ${option[workdir]} must be a path from / that every host sees, like --workdir /mnt/runs/align" ;;
  esac
  # shellcheck disable=SC2034
  training=(python -m ieat_jax.train --config "${option[config]}" --workdir "${option[workdir]}"
    "${overrides[@]}")
}

# recipe_is_here: fails unless the recipe is in the repository, as the other machines see it.
recipe_is_here() {
  local file=${option[config]}
  [[ $file != *.py:* ]] || file=${file%%.py:*}.py
  [[ $file != /* && -f $IEAT_ROOT/$file ]] ||
    fail "--config ${option[config]}: there is no $file in $IEAT_ROOT; give a recipe by its path from there"
}

# show COMMAND...: as one would type it, on one line.
show() {
  local word space=
  for word; do
    [[ $word =~ ^[-+%@:,./=_A-Za-z0-9]+$ ]] || word=${word@Q}
    printf '%s%s' "$space" "$word"
    space=' '
  done
  printf '\n'
}
