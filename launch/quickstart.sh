#!/usr/bin/env bash
# From nothing to a model that listens, thinks, writes and speaks, and a report of what it learned, on a CPU.
#
#   bash launch/quickstart.sh                              # everything; what is done already is skipped
#   bash launch/quickstart.sh --dry-run                    # print the commands, what for, how long they take
#   bash launch/quickstart.sh --config.train.steps=20      # overrides for all three stages: a quick look
#   RUNS=/data/demo HOURS=0.2 bash launch/quickstart.sh    # elsewhere, with less speech
#
# It can be stopped at any time and started again: training resumes where it was. Exit codes: 0 done, 75 stopped at
# request (start it again to go on), anything else: the step that is named failed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

DEFAULT_RUNS=runs/demo # as configs/demo.py says it
RUNS=${RUNS:-$IEAT_ROOT/$DEFAULT_RUNS}
[[ $RUNS != *://* ]] || fail "RUNS=$RUNS must be a path: mount the bucket (gcsfuse) and give the path there"
[[ $RUNS == /* ]] || RUNS=$PWD/$RUNS
RUNS=${RUNS%/}
[[ $RUNS != "$IEAT_ROOT/$DEFAULT_RUNS" ]] || RUNS=$DEFAULT_RUNS
HOURS=${HOURS:-1.0} # of distinct speech in the corpus
DATA=$RUNS/data
STEPS=13
# What each step takes on two cores that nobody else uses. While it runs, it says itself how far it is.
declare -A TAKES=(
  [corpus]="about 1 min for an hour of speech" [tokenizer]="seconds" [codec]="about 30 s" [units]="seconds"
  [write]="about 2 min" [align]="about 2 min" [joint]="about 3 min"
  [score_align_start]="about 1 min" [score_align]="about 1 min"
  [score_joint_start]="about 1 min" [score_joint]="about 1 min" [report]="seconds" [reply]="seconds"
)
SCORE=(--records "$DATA/units/test.jsonl" --audio-root "$DATA/corpus" --limit 240 --speak 16)

dry=
if [[ ${1:-} == --dry-run ]]; then
  dry=1
  shift
fi
overrides=("$@")
for each in "${overrides[@]}"; do
  [[ $each == --config.*=* ]] || fail "$each: give overrides as --config.FIELD=VALUE, or --dry-run first"
done

number=0
chain= # what all steps so far were made with

# step NAME OUTPUT WORDS COMMAND...: run it unless it is done already with these very settings, after these very steps.
# What other settings made is moved aside; an interrupted training resumes. With `log` set, the command writes there.
step() {
  local name=$1 output=$2 words=$3 stamp=$RUNS/.quickstart/$1 state code=0 began=$SECONDS
  shift 3
  number=$((number + 1))
  if [[ -n $dry ]]; then
    printf '# [%s/%s] %s: %s; %s\n' "$number" "$STEPS" "$name" "$words" "${TAKES[$name]}"
    printf '%q ' "$@"
    printf '\n'
    return
  fi
  chain=$(printf '%s\n' "$chain" "$@" "$(settings "$@")" | cksum)
  state=$(cat "$stamp" 2>/dev/null || true)
  if [[ $state == "done $chain" && -e $output ]]; then
    say "[$number/$STEPS] $name: done before"
    return
  fi
  if [[ -e $output && $state != "begun $chain" ]]; then
    mv -- "$output" "$output.old-$(date +%Y%m%d-%H%M%S)"
    say "$output was made with other settings: moved aside"
  elif [[ -e $output && $3 != ieat_jax.train ]]; then
    rm -r -- "$output" # half of it, from a step that was interrupted
  fi
  say "[$number/$STEPS] $name: $words; ${TAKES[$name]}"
  printf 'begun %s\n' "$chain" >"$stamp"
  if [[ -n ${log:-} ]]; then
    run_interruptible "$@" >"$log" || code=$?
  else
    run_interruptible "$@" || code=$?
  fi
  case $code in
    0) ;;
    75 | 130 | 143)
      say "$name was stopped; start this script again to go on"
      exit 75
      ;;
    *)
      echo "error: step $name ended with exit code $code; its message stands above. Start this script again afterwards" >&2
      exit "$code"
      ;;
  esac
  printf 'done %s\n' "$chain" >"$stamp"
  say "[$number/$STEPS] $name: took $(clock $((SECONDS - began))), $(clock $SECONDS) in all"
}

# What a command depends on besides its arguments: the whole configuration of a training.
settings() {
  if [[ $3 == ieat_jax.train ]]; then
    "$@" --show-config
  fi
}

# Sets `arguments` to those of a stage's training, with the paths of configs/demo.py where RUNS is another folder.
arguments_of() {
  local stage=$1
  arguments=(--config "configs/demo.py:$stage")
  if [[ $RUNS != "$DEFAULT_RUNS" ]]; then
    arguments+=("--config.tokenizer.path=$DATA/tokenizer")
    case $stage in
      write)
        arguments+=("--config.data.sources.text.records=$DATA/corpus/text.jsonl")
        arguments+=("--config.data.sources.dialogues.records=$DATA/corpus/train.jsonl")
        ;;
      align)
        arguments+=("--config.init.checkpoint=$RUNS/write")
        arguments+=("--config.data.sources.dialogues.records=$DATA/corpus/train.jsonl")
        ;;
      joint)
        arguments+=("--config.init.checkpoint=$RUNS/align" "--config.codec=$DATA/codec")
        arguments+=("--config.data.sources.dialogues.records=$DATA/units/train.jsonl")
        arguments+=("--config.data.sources.dialogues.audio_root=$DATA/corpus")
        ;;
    esac
  fi
  arguments+=("${overrides[@]}")
}

# train STAGE WORDS
train() {
  arguments_of "$1"
  step "$1" "$RUNS/$1" "$2" python -m ieat_jax.train --workdir "$RUNS/$1" "${arguments[@]}"
}

# Tries the overrides on every stage, so that a wrong one does not end the second hour.
check_stages() {
  local stage code stamp=$RUNS/.quickstart/checked state
  ((${#overrides[@]})) || return 0
  state=$(printf '%s\n' "$RUNS" "${overrides[@]}" | cksum)
  [[ $(cat "$stamp" 2>/dev/null) != "$state" ]] || return 0
  say "trying the overrides on all stages: seconds"
  for stage in write align joint; do
    arguments_of "$stage"
    code=0
    run_interruptible python -m ieat_jax.train "${arguments[@]}" --check --made-later "$RUNS" || code=$?
    case $code in
      0) ;;
      130 | 143) exit 75 ;;
      *)
        echo "error: the overrides do not fit stage $stage; the reason stands above. Nothing was begun" >&2
        exit "$code"
        ;;
    esac
  done
  printf '%s\n' "$state" >"$stamp"
}

# score NAME CHECKPOINT WORDS [FLAGS...]
score() {
  local name=$1 checkpoint=$2 words="240 held-out turns are scored $3"
  shift 3
  step "score_$name" "$RUNS/scores/$name" "$words" python -m ieat_jax.evaluate score --checkpoint "$RUNS/$checkpoint" \
    "${SCORE[@]}" "$@" --out "$RUNS/scores/$name"
}

cd "$IEAT_ROOT"
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} # else JAX looks for a TPU where libtpu is installed
if [[ -z $dry ]]; then
  mkdir -p "$RUNS/.quickstart"
  ieat_setup demo,eval
  check_stages
fi

step corpus "$DATA/corpus" "a program speaks $HOURS h of dialogues" \
  python -m ieat_jax.prepare demo --out "$DATA/corpus" --hours "$HOURS" --seed 0
step tokenizer "$DATA/tokenizer" "subwords of what the dialogues say" \
  python -m ieat_jax.prepare tokenizer --records "$DATA/corpus/text.jsonl" "$DATA/corpus/train.jsonl" \
  --out "$DATA/tokenizer" --vocab-size 1536
step codec "$DATA/codec" "speech units of the assistant's voice" \
  python -m ieat_jax.prepare codec --records "$DATA/corpus/train.jsonl" --out "$DATA/codec"
step units "$DATA/units" "the replies as units" \
  python -m ieat_jax.prepare units --records "$DATA/corpus/train.jsonl" "$DATA/corpus/validation.jsonl" \
  "$DATA/corpus/test.jsonl" --codec "$DATA/codec" --out "$DATA/units"
train write "stage write: a small language model learns to read, think and answer"
train align "stage align: it learns to listen from its own reading"
score align_start align "before align: hears nothing yet" --step 0
score align align "after align"
train joint "stage joint: text and speech together"
score joint_start joint "before joint: a voice that knows no words yet" --step 0 --speak 0
score joint joint "after joint"
COLUMNS=140 log=$RUNS/table.txt step report "$RUNS/report.html" "the four side by side" \
  python -m ieat_jax.evaluate report --runs "align_start=$RUNS/scores/align_start" "align=$RUNS/scores/align" \
  "joint_start=$RUNS/scores/joint_start" "joint=$RUNS/scores/joint" --out "$RUNS/report.html"
clip=demo_test_00000_1
if [[ -z $dry ]]; then # the first turn of the test split that says why the user feels so
  read -r clip < <(grep -m 1 '"kind": "congruent"' "$DATA/corpus/test.jsonl" | grep -o 'demo_test_[0-9]*_1') || true
fi
step reply "$RUNS/reply.wav" "an answer to $clip.flac" \
  python -m ieat_jax.generate --checkpoint "$RUNS/joint" --audio "$DATA/corpus/audio/$clip.flac" --out "$RUNS/reply.wav"

[[ -z $dry ]] || exit 0
cat "$RUNS/table.txt"
RUNS=$(cd "$RUNS" && pwd)
say "this table                        $RUNS/table.txt"
say "the report, to see and listen to  $RUNS/report.html"
if [[ -f $RUNS/reply.wav ]]; then
  say "a spoken answer                   $RUNS/reply.wav"
else
  say "the model did not say a word to $clip.flac: no reply.wav"
fi
say "for commands of your own, once per shell: $(activation)"
say "talk to it: python -m ieat_jax.generate --checkpoint '$RUNS/joint' --audio YOUR.wav --out reply.wav"
say "finished in $(clock $SECONDS)"
