"""launch/tpu_vm.sh with a fake gcloud."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.tpu_vm import CREATE, DELETE, FLAGS, GCLOUD, KIND, OVERRIDE, REQUIRED, TRAINING, launch, steps


def dry_run(cluster, *more, **environment):
    code, out, err = cluster.run("tpu_vm.sh", "--dry-run", *REQUIRED, OVERRIDE, *more, **environment)
    assert (code, err) == (0, "")
    return [shlex.split(line) for line in out.splitlines()]


def test_the_commands(cluster, bare_path):
    create, describe, pack, copy, install, run, delete = dry_run(cluster, PATH=bare_path)
    assert create == CREATE
    assert describe[4:] == ["describe", "align", "--zone=us-west4-a", "--format=value(state.state)"]
    assert pack[:2] == ["tar", "-czf"]
    sent = f"align:{Path(pack[2]).name}"
    assert copy == [*KIND, "tpu-vm", "scp", pack[2], sent, "--zone=us-west4-a", "--worker=all", "--quiet"]
    connection = [
        *(*KIND, "tpu-vm", "ssh", "align", "--zone=us-west4-a", "--worker=all", "--quiet"),
        *("--ssh-flag=-oServerAliveInterval=30", "--ssh-flag=-oServerAliveCountMax=6"),
    ]
    assert install[:-1] == run[:-1] == connection
    assert install[-1].endswith("bash ieat_jax/launch/tpu_worker.sh install tpu; } || exit 1")
    remote = shlex.split(run[-1].removeprefix("--command="))
    assert remote[:3] == ["bash", "ieat_jax/launch/tpu_worker.sh", "run"]
    assert remote[4:] == ["env", f"LIBTPU_INIT_ARGS={FLAGS}", *TRAINING]
    assert delete == DELETE
    assert cluster.calls() == []


def test_several_slices_and_every_option(cluster):
    create, *_, copy_0, copy_1, install_0, install_1, run_0, run_1 = dry_run(
        cluster, "--slices=2", "--accelerator=v6e-256", "--project=my-project", "--spot", "--runtime=v2-other",
        "--keep", "--extras=tpu,demo", "--setup=mount 'a b' \"$HOME\"", "--create=--network=n",
        "--create=--labels=a=b,c=d", "--ssh=--internal-ip", "--max-restarts=0", LIBTPU_INIT_ARGS="--xla_foo=1",
    )  # fmt: skip
    assert create == [
        *(*KIND, "queued-resources", "create", "align", "--accelerator-type=v6e-256", "--runtime-version=v2-other"),
        *("--node-count=2", "--node-prefix=align", "--zone=us-west4-a", "--project=my-project", "--spot"),
        *("--network=n", "--labels=a=b,c=d"),
    ]
    for number, (copy, install, run) in enumerate([(copy_0, install_0, run_0), (copy_1, install_1, run_1)]):
        assert copy[6].startswith(f"align-{number}:ieat_jax-")
        assert install[5] == run[5] == f"align-{number}"
        for command in (copy, install, run):
            assert "--internal-ip" in command
            assert "--project=my-project" in command
        *first, last = install[-1].split(" && ")
        assert first[-1].endswith("install tpu,demo")
        assert shlex.split(last) == ["bash", "-c", "mount 'a b' \"$HOME\"" + ";", "}", "||", "exit", "1"]
        assert f"LIBTPU_INIT_ARGS={FLAGS} --xla_foo=1" in shlex.split(run[-1])


def test_what_only_alpha_knows(cluster):
    create, describe, *_ = dry_run(cluster, "--best-effort")
    assert create[:2] == ["gcloud", "alpha"]
    assert create[-1] == "--best-effort"
    assert describe[:2] == ["gcloud", "compute"]
    assert "--reserved" in dry_run(cluster, "--reserved")[0]
    _, _, _, copy, _, run, _ = dry_run(cluster, "--iap")
    for command in (copy, run):
        assert command[:2] == ["gcloud", "alpha"]
        assert "--tunnel-through-iap" in command


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud does not come from PyPI")
def test_gcloud_understands_the_commands(cluster):
    """Its parser works without an account, and refuses to go on after it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDSDK_")}
    environment["CLOUDSDK_CONFIG"] = str(cluster.folder)
    environment["CLOUDSDK_CORE_CHECK_GCE_METADATA"] = "false"  # else a machine on Google Cloud has an account
    create, _, _, copy, _, run, _ = dry_run(cluster, "--project=p", "--spot", "--ssh=--internal-ip")
    other, _, _, _, _, _, _, run_0, _, _ = dry_run(cluster, "--project=p", "--best-effort", "--slices=2", "--iap")
    wrong = [word.replace("--accelerator-type", "--acelerator-type") for word in create]
    commands = [create, copy, run, other, run_0, wrong]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    *told, refused = [process.communicate(timeout=60)[1] for process in running]
    for err in told:
        assert "do not currently have an active account" in err
    assert "unrecognized arguments: --acelerator-type" in refused
    assert [process.returncode for process in running] == [1] * len(told) + [2]


def test_from_nothing_to_the_end(tpu):
    tpu.note("states", "ABSENT", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    code, out, err = launch(tpu)
    assert (code, err) == (0, "")
    assert steps(tpu) == ["describe", "create", *["describe"] * 4, "scp", "install", "run 1", "delete"]
    assert CREATE in tpu.calls()
    assert DELETE in tpu.calls()
    assert "finished: /mnt/my runs/align" in out


def test_what_is_there_is_taken_up_and_can_be_kept(tpu):
    code, out, _ = launch(tpu, "--keep")
    assert code == 0
    assert steps(tpu) == ["describe", "scp", "install", "run 1"]
    assert f"costs money until you delete it: {shlex.join(DELETE)}" in out


def test_stopped_at_request_starts_again_at_once(tpu):
    tpu.note("codes", 75, 75, 0)
    code, out, _ = launch(tpu, "--max-restarts=0", BACKOFF=100)
    assert code == 0
    assert [step for step in steps(tpu) if step != "describe"] == [
        "scp",
        "install",
        "run 1",
        "run 2",
        "run 3",
        "delete",
    ]
    assert out.count("starting it again") == 2


def test_failures_are_given_up(tpu):
    tpu.note("codes", 1, 139, 134)
    code, out, err = launch(tpu, "--max-restarts=2")
    assert code == 134
    assert steps(tpu)[-1] == "delete"
    assert [step for step in steps(tpu) if step.startswith("run")] == ["run 1", "run 2", "run 3"]
    assert "exit code 1: again in 0 s (1 of 2)" in out
    assert "error: training ended with exit code 134, 3 times one after the other; giving up" in err


def test_pauses_grow(tpu):
    tpu.fake("sleep")
    tpu.note("codes", *[1] * 7, 0)
    assert launch(tpu, BACKOFF=10)[0] == 0
    assert [call[1] for call in tpu.calls() if call[0] == "sleep"] == ["10", "20", "40", "80", "160", "300", "300"]


def test_a_lost_connection_takes_the_attempt_up(tpu):
    tpu.note("codes", 255, 75, 0)
    assert launch(tpu)[0] == 0
    assert [step for step in steps(tpu) if step.startswith("run")] == ["run 1", "run 1", "run 2"]


def test_wrong_use_of_training_is_the_end(tpu):
    tpu.note("codes", 2)
    code, _, err = launch(tpu)
    assert code == 2
    assert steps(tpu) == ["describe", "scp", "install", "run 1", "delete"]
    assert "training cannot work like this" in err


def test_a_failed_installation_is_tried_again(tpu):
    tpu.note("gcloud", GCLOUD.replace("case", "[[ $* != *install* ]] || code=$(take installs)\ncase", 1) + "exit $code")
    tpu.note("installs", 1, 0)
    code, out, _ = launch(tpu)
    assert code == 0
    assert "installation ended with exit code 1: again" in out
    assert [step for step in steps(tpu) if step != "describe"] == [*["scp", "install"] * 2, "run 1", "delete"]


def test_machines_that_were_taken_away_are_asked_for_again(tpu):
    tpu.note("states", "ACTIVE", "SUSPENDING", "SUSPENDED", "ABSENT", "ACTIVE")
    tpu.note("codes", 255, 0)
    code, _, _ = launch(tpu, "--max-restarts=1")
    assert code == 0
    assert steps(tpu) == [
        *("describe", "scp", "install", "run 1"),
        *("describe", "describe", "delete", "describe", "create", "describe", "scp", "install", "run 1", "delete"),
    ]


def test_several_slices_start_together_and_a_failure_counts(tpu):
    tpu.note(
        "gcloud",
        GCLOUD.replace("code=$(take codes)", "code=75; [[ $* != *align-1* ]] || code=$(take codes)"),
    )
    tpu.note("codes", 1, 2)
    code, out, _ = launch(tpu, "--slices=2")
    assert code == 2
    assert "training ended with exit code 1" in out
    assert steps(tpu).count("run 1") == steps(tpu).count("run 2") == 2


def test_a_request_that_fails(tpu):
    tpu.note("states", "ABSENT", "FAILED")
    code, _, err = launch(tpu)
    assert code == 1
    assert "error: the request for align failed" in err
    assert steps(tpu)[-1] == "delete"


def test_no_account(tpu):
    tpu.note("states", "ERROR")
    code, _, err = launch(tpu)
    assert code == 1
    assert "do not currently have an active account" in err
    assert steps(tpu) == ["describe"]  # nothing to delete


def test_a_request_that_can_not_be_made(tpu):
    tpu.note("states", "ABSENT")
    tpu.note("gcloud", GCLOUD.replace("case", '[[ $* != *" create "* ]] || exit 4\ncase', 1))
    assert launch(tpu)[0] == 4
    assert steps(tpu) == ["describe", "create", "describe"]


def test_a_request_that_was_interrupted_is_deleted(tpu):
    tpu.note("states", "ABSENT", "ACCEPTED")
    tpu.note("gcloud", GCLOUD.replace("case", '[[ $* != *" create "* ]] || exit 130\ncase', 1))
    assert launch(tpu)[0] == 130
    assert steps(tpu) == ["describe", "create", "describe", "delete"]


def test_the_ssh_key_has_to_be_in_the_agent(tpu):
    key = tpu.folder / ".ssh" / "google_compute_engine"
    key.parent.mkdir()
    key.touch()
    tpu.fake("ssh-keygen", "echo '3072 SHA256:abc me@here (RSA)'")
    tpu.fake("ssh-add", "echo '3072 SHA256:def other (RSA)'")
    code, _, err = launch(tpu)
    assert code == 2
    assert err.endswith(f"ssh-add {key}\n")
    assert "gcloud" not in [call[0] for call in tpu.calls()]
    tpu.fake("ssh-add", "echo '3072 SHA256:abc me@here (RSA)'")
    assert launch(tpu)[0] == 0
    tpu.fake("ssh-add", "exit 2")  # no agent at all
    assert launch(tpu)[0] == 0


def test_machines_that_can_not_be_deleted_are_told(tpu):
    tpu.note("gcloud", GCLOUD.replace("case", '[[ $* != *" delete "* ]] || exit 4\ncase', 1))
    code, _, err = launch(tpu)
    assert code == 1
    assert f"error: align could not be deleted and costs money; delete it: {shlex.join(DELETE)}" in err


def test_without_gcloud(cluster, bare_path):
    code, _, err = cluster.run("tpu_vm.sh", *REQUIRED, PATH=bare_path)
    assert code == 2
    assert "no gcloud here" in err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (REQUIRED[2:], "--name is missing"),
        ([*REQUIRED, "--workdir", "gs://runs/align"], "mount the bucket on every host"),
        ([*REQUIRED, "--workdir", "runs/align"], "must be a path from /"),
        ([*REQUIRED, "--config", "configs/none.py"], "there is no configs/none.py"),
        ([*REQUIRED, "--accelerator", "v7x-8"], "v7x-8 is not known; one of: v5e-1 v5e-4"),
        ([*REQUIRED, "--name", "my_run"], "--name my_run must be"),
        ([*REQUIRED, "--zone", "--spot"], "--zone needs a value, not --spot"),
        ([*REQUIRED, "--spot", "--reserved"], "only one of them"),
        ([*REQUIRED, "--extras", "tpu; ls"], "must be extras"),
        ([*REQUIRED, "--slices", "1.5"], "--slices 1.5 must be"),
        ([*REQUIRED, "--setup", "mount\nls"], "--setup needs a value of one line"),
        ([*REQUIRED, "--image", "i"], "--image is not an option"),
        ([*REQUIRED, "--keep=1"], "--keep takes no value"),
        ([*REQUIRED, "--config.train.steps", "10"], "--config.FIELD=VALUE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_use_is_told_in_a_line(tpu, wrong, told):
    code, out, err = tpu.run("tpu_vm.sh", *wrong)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert told in err
    assert tpu.calls() == []


def test_launcher_and_host_together(worker):
    """What gcloud is asked to copy and run is copied and run here."""
    worker.fake(
        "gcloud",
        """
        case "$*" in
          *describe*) echo ACTIVE ;;
          *scp*) cp "$5" "$HOME/${6#*:}" ;;
          *ssh*) cd && exec bash -c "${*: -1:1}" ;;
        esac
        """.replace('"${*: -1:1}"', '"$(sed "s/^--command=//" <<<"${*: -1:1}")"'),
    )
    environment = worker.folder / "an env" / "bin"
    environment.mkdir(parents=True)
    (environment / "python").write_text(
        """#!/usr/bin/env bash
        case "$*" in
          "-c import pip") exit ;;
          *"pip install"*) echo "$*" >>"$NOTES/pip"; exit ;;
        esac
        printf '%s|' "$PWD" "$IEAT_PROCESS_ID" "$LIBTPU_INIT_ARGS" "$@" >>"$NOTES/training"
        echo "step 1"
        code=$(head -n 1 "$NOTES/codes"); sed -i 1d "$NOTES/codes"
        exit "$code"
        """
    )
    (environment / "python").chmod(0o755)
    worker.note("codes", 75, 0)
    setup = "[[ -e $HOME/mounted ]] || { echo 'a b' >\"$HOME/mounted\"; exit 2; }"  # at first it fails
    code, out, err = launch(worker, "--setup", setup, IEAT_VENV=environment.parent)
    assert code == 0, err
    assert out.count("installation ended with exit code 1: again") == 1
    assert out.count("[3] step 1") == 2
    assert (worker.folder / "mounted").read_text() == "a b\n"
    assert ".[tpu]" in worker.noted("pip")
    assert "ieat_jax/launch/tpu_worker.sh" not in worker.noted("training")
    once = "|".join([str(worker.folder), "3", FLAGS, *TRAINING[1:]]) + "|"
    assert worker.noted("training") == once * 2
