"""launch/tpu_vm.sh is asked to stop: while it waits, between two steps, while training runs or is about to."""

import signal
import time

import pytest
from helpers.tpu_vm import GCLOUD, REQUIRED, steps


def test_being_stopped_lets_training_save(tpu):
    tpu.note("codes", "wait")
    process = tpu.start("tpu_vm.sh", *REQUIRED, POLL=0)
    while "training runs" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "training saves and ends" in out
    assert steps(tpu) == ["describe", "scp", "install", "run 1", "stop", "delete"]


def test_being_stopped_while_waiting(tpu):
    tpu.note("states", "ABSENT", "WAITING_FOR_RESOURCES")
    process = tpu.start("tpu_vm.sh", *REQUIRED, POLL=60)
    while "WAITING_FOR_RESOURCES" not in process.stdout.readline():
        pass
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert steps(tpu) == ["describe", "create", "describe", "delete"]


@pytest.mark.parametrize("moment", ["describe", "sleep"])
def test_a_stop_between_two_steps_of_waiting_is_heard(tpu, moment):
    """The signal comes while another program is asked, or when the sleep has just begun."""
    tpu.note("states", "ABSENT", "WAITING_FOR_RESOURCES")
    signal_once = (
        '[[ -e $NOTES/signalled ]] || { touch "$NOTES/signalled"; kill -TERM "$(cat "$NOTES/pid")"; sleep 0.3; }'
    )
    if moment == "describe":
        tpu.note(
            "gcloud", GCLOUD.replace('echo "$state"', f'[[ $state == ABSENT ]] || {{ {signal_once}; }}; echo "$state"')
        )
    else:
        tpu.fake("sleep", f'{signal_once.replace("sleep 0.3", "/bin/sleep 0.3")}; exec /bin/sleep "$@"')
    began = time.monotonic()
    process = tpu.start("tpu_vm.sh", *REQUIRED, POLL=60)
    tpu.note("pid", process.pid)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert time.monotonic() - began < 20
    assert steps(tpu) == ["describe", "create", "describe", "delete"]


def test_a_stop_before_training_has_begun_is_repeated(tpu):
    """The first request reaches hosts on which nothing runs yet."""
    tpu.note("codes", "wait")
    late = GCLOUD.replace(
        'touch "$NOTES/stopped"', '[[ ! -e $NOTES/asked ]] || touch "$NOTES/stopped"; touch "$NOTES/asked"'
    )
    tpu.note("gcloud", late)
    process = tpu.start("tpu_vm.sh", *REQUIRED, POLL=0)
    while "training runs" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert steps(tpu) == ["describe", "scp", "install", "run 1", "stop", "stop", "delete"]
