"""launch/tpu_worker.sh on this machine with a fake metadata server."""

import os
import signal

import pytest

JOINED = """printf '%s ' "$IEAT_COORDINATOR" "$IEAT_NUM_PROCESSES" "$IEAT_PROCESS_ID"; echo "$LIBTPU_INIT_ARGS" """
SAVES = "trap 'sleep 0.2; echo saved; exit 75' TERM; echo up; for ((i = 0; i < 300; i++)); do sleep 0.1; done"
STUBBORN = "trap '' TERM; echo up; for ((i = 0; i < 300; i++)); do sleep 0.1; done"


def started(worker, *arguments, **environment):
    """A process of `run` whose command has said that it is up."""
    process = worker.start("tpu_worker.sh", "run", *arguments, **environment)
    assert process.stdout.readline() == "[3] up\n"
    return process


@pytest.mark.parametrize(
    ("environment", "joined"),
    [
        ({}, "10.0.0.1:8482 4 3"),
        ({"TPU_ENV": "", "ENDPOINTS": "10.0.1.1,10.0.1.2,10.0.1.3,10.0.1.4"}, "10.0.1.1:8482 4 1"),
        ({"TPU_ENV": "ZONE: 'a'\\n"}, "10.0.1.1:8482 2 1"),
    ],
    ids=["multislice", "addresses", "a slice"],
)
def test_a_host_knows_its_place(worker, environment, joined):
    code, out, _ = worker.run(
        "tpu_worker.sh", "run", "a", "env", "LIBTPU_INIT_ARGS=b c", "bash", "-c", JOINED, **environment
    )
    assert code == 0
    assert out == f"[{joined[-1]}] {joined} b c\n"


def test_exit_codes_of_a_host(worker):
    for wanted, told in ((0, 0), (75, 75), (134, 134), (255, 1)):
        assert worker.run("tpu_worker.sh", "run", f"a{wanted}", "bash", "-c", f"exit {wanted}")[0] == told
        assert worker.run("tpu_worker.sh", "run", f"a{wanted}", "false")[0] == told  # how it ended, not once more


def test_a_command_outlives_its_connection(worker):
    process = started(worker, "a", "bash", "-c", SAVES)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    process = started(worker, "a", "false")
    assert worker.run("tpu_worker.sh", "stop") == (0, "", "")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 75
    assert out.endswith("[3] saved\n")


def test_another_attempt_ends_what_runs(worker):
    first = started(worker, "a", "bash", "-c", SAVES)
    assert worker.run("tpu_worker.sh", "run", "b", "true")[0] == 0
    assert first.wait(timeout=20) == 75
    first.communicate()


def test_what_does_not_listen_is_killed(worker):
    process = started(worker, "a", "bash", "-c", STUBBORN)
    assert worker.run("tpu_worker.sh", "stop", GRACE=1)[0] == 0
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "was killed" in err


def test_no_tpu_host(worker):
    worker.program("curl", "#!/usr/bin/env bash\nexit 22\n")
    code, _, err = worker.run("tpu_worker.sh", "run", "a", "true")
    assert code == 2
    assert "no Cloud TPU host" in err
    assert worker.run("tpu_worker.sh", "go")[0] == 2
