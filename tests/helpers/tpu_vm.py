"""What the tests of launch/tpu_vm.sh share: how it is called, a fake gcloud, and what that was asked."""

import shlex

REQUIRED = [
    *("--name", "align", "--zone", "us-west4-a", "--accelerator", "v5e-16"),
    *("--config", "configs/demo.py:align", "--workdir", "/mnt/my runs/align"),
]
OVERRIDE = "--config.note=it's $HOME"
TRAINING = [
    *("python", "-m", "ieat_jax.train", "--config", "configs/demo.py:align", "--workdir", "/mnt/my runs/align"),
    OVERRIDE,
]
FLAGS = (
    "--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true "
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true "
    "--xla_enable_async_all_gather=true --xla_tpu_scoped_vmem_limit_kib=98304"
)
KIND = ["gcloud", "compute", "tpus"]
CREATE = [
    *(*KIND, "queued-resources", "create", "align", "--accelerator-type=v5litepod-16"),
    *("--runtime-version=v2-alpha-tpuv5-lite", "--node-id=align", "--zone=us-west4-a"),
]
DELETE = [*KIND, "queued-resources", "delete", "align", "--zone=us-west4-a", "--force", "--quiet"]
GCLOUD = """
case "$*" in
  *" describe "*)
    state=$(take states)
    [[ $state != ABSENT ]] || { echo "ERROR: NOT_FOUND: Resource was not found" >&2; exit 1; }
    [[ $state != ERROR ]] || { echo "ERROR: You do not currently have an active account selected." >&2; exit 1; }
    echo "$state"
    ;;
  *"tpu_worker.sh run"*)
    code=$(take codes)
    if [[ $code == wait ]]; then
      echo "training runs"
      for ((i = 0; i < 300; i++)); do [[ -e $NOTES/stopped ]] && exit 75; sleep 0.1; done
    fi
    exit "$code"
    ;;
  *"--command=bash ieat_jax/launch/tpu_worker.sh stop"*) touch "$NOTES/stopped" ;;
esac
"""


def launch(tpu, *more, **environment):
    return tpu.run("tpu_vm.sh", *REQUIRED, OVERRIDE, *more, **({"BACKOFF": 0, "POLL": 0} | environment))


def steps(tpu):
    """What gcloud was asked, in short; of starts the number of the attempt."""
    short = []
    for call in (call for call in tpu.calls() if call[0] == "gcloud"):
        command = call[-1] if call[4] == "ssh" else ""
        if "tpu_worker.sh run" in command:
            short.append(f"run {shlex.split(command)[3].rpartition('-')[2]}")
        elif command:
            short.append("stop" if "install" not in command else "install")
        else:
            short.append(call[4])
    return short
