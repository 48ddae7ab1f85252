#!/usr/bin/env bash
# Training on GPUs of a Slurm cluster: writes a batch script and gives it to sbatch.
#
#   bash launch/slurm.sh --name align --nodes 4 --gpus 8 --config configs/mine.py:align --workdir /shared/runs/align \
#       --sbatch=--partition=a100 --sbatch=--time=24:00:00 --config.model.dtype=bfloat16
#   bash launch/slurm.sh --name align --nodes 4 --gpus 8 --config configs/mine.py:align --workdir /shared/runs/align \
#       --container nvcr.io#me/ieat_jax:1 --mounts /shared:/shared
#
#   --name NAME          of the job
#   --config FILE[:ARG]  the recipe, in this repository, and --config.FIELD=VALUE for any of its fields
#   --workdir PATH       the run's folder, where all nodes see it
#   --nodes N            (1)
#   --gpus N             of each node (8): as many processes, one a GPU
#   --sbatch FLAG        for sbatch: partition, account, time, CPUs, ...; may be given again
#   --container IMAGE    run in it by pyxis, with the dependencies of ieat_jax; the repository is mounted into it
#   --mounts LIST        for pyxis, beside the repository: FROM:TO[,FROM:TO...]; --workdir and the data have to be in it
#   --grace SECONDS      before the time limit to save in (120)
#   --max-restarts K     after failures, in the same allocation (3)
#   --dry-run            print the batch script and start nothing
#
# The repository has to be where all nodes see it. Without --container the environment is .venv of the repository, or
# the folder that IEAT_VENV names, with the extra `gpu`. Exit code 75 of training, stopped at request (the time limit
# comes near): the job goes back into the queue and goes on from there. 2, wrong use: the end. Any other: again after
# BACKOFF (10) seconds, then twice that, and so on. Output of all starts goes to slurm-JOB.out, where the script is
# called. To stop a run, with its state saved: scontrol update JobId=JOB Requeue=0, then scancel --signal=TERM JOB.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source-path=SCRIPTDIR source=machines.sh
. "$(dirname "${BASH_SOURCE[0]}")/machines.sh"

needed=(name config workdir)
taken=(nodes gpus container mounts grace max-restarts)
repeated=(sbatch)
switches=(dry-run)
read_options "$@"
match name '[A-Za-z0-9][-._A-Za-z0-9]*' "letters, digits, and . - _"
match mounts '[^:,]+:[^:,]+(:[^:,]+)?(,[^:,]+:[^:,]+(:[^:,]+)?)*' "FROM:TO[,FROM:TO...]"
nodes=$(number nodes 1 1)
gpus=$(number gpus 8 1)
grace=$(number grace 120 1)
restarts=$(number max-restarts 3 0)
training_command
recipe_is_here
[[ ${BACKOFF:=10} =~ ^[1-9][0-9]*$ ]] || fail "BACKOFF=$BACKOFF must be a whole number of seconds, 1 or more"
mapfile -t flags < <(given sbatch)
for flag in "${flags[@]}"; do
  [[ $flag == -* ]] || fail "--sbatch $flag must be a flag of sbatch, like --sbatch=--partition=a100"
done
venv=${IEAT_VENV:-$IEAT_ROOT/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv

# One task for each GPU, and every task sees all GPUs of its node: JAX takes the one whose number is the task's. So
# there is no --gpus-per-task and no --gpu-bind. A task that ends does not end the others before these have saved.
srun=(srun --kill-on-bad-exit=0 --wait=300)
if [[ -n ${option[container]:-} ]]; then
  srun+=("--container-image=${option[container]}" "--container-workdir=$IEAT_ROOT"
    "--container-mounts=$IEAT_ROOT:$IEAT_ROOT${option[mounts]:+,${option[mounts]}}")
  environment=
else
  [[ -z ${option[mounts]:-} ]] || fail "--mounts is for --container, which is missing"
  [[ -n ${option[dry-run]:-} || -x $venv/bin/python ]] ||
    fail "there is no environment in $venv: make one with pip install -e '.[gpu]' and name it by IEAT_VENV," \
      "or give --container"
  environment="export PATH=$(printf %q "$venv/bin"):\$PATH
"
fi

batch() {
  cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=${option[name]}
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$gpus
#SBATCH --gpus-per-node=$gpus
#SBATCH --signal=TERM@$grace
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
set -euo pipefail
cd $(printf %q "$IEAT_ROOT")
${environment}export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_MEM_FRACTION=\${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
export XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true\${XLA_FLAGS:+ \$XLA_FLAGS}"
unset TPU_WORKER_HOSTNAMES MEGASCALE_COORDINATOR_ADDRESS IEAT_COORDINATOR # srun says who takes part
for ((failures = 0; ; failures++)); do
  code=0
  $(show "${srun[@]}" "${training[@]}") || code=\$?
  case \$code in
    0) exit 0 ;;
    $STOPPED)
      echo "== training was stopped and has saved: back into the queue"
      scontrol requeue "\$SLURM_JOB_ID" || echo "error: no requeue; give this job to sbatch again to go on" >&2
      exit $STOPPED
      ;;
    $WRONG_USE) exit $WRONG_USE ;; # its reason stands above
  esac
  if ((failures == $restarts)); then
    echo "error: training ended with exit code \$code, \$((failures + 1)) times; giving up" >&2
    exit "\$code"
  fi
  pause=\$((${BACKOFF} << (failures < 5 ? failures : 5)))
  echo "== training ended with exit code \$code: again in \$pause s"
  sleep "\$pause"
done
END
}

if [[ -n ${option[dry-run]:-} ]]; then
  printf '# '
  show sbatch "${flags[@]}"
  batch
  exit 0
fi
command -v sbatch >/dev/null ||
  fail "there is no sbatch here: call this on a login node, or see the script with --dry-run"
batch | sbatch "${flags[@]}"
