"""Real processes over loopback: what they tell one another, and how they end together."""

import json
import signal
import socket
import time

import pytest
from helpers.several import Several

from ieat_jax.errors import UserError
from ieat_jax.processes import gather, joined


def test_alone_a_value_is_what_json_makes_of_it():
    assert gather("x", (1, {"a": None})) == [[1, {"a": None}]]


def test_every_process_learns_what_all_have_told():
    program = """
        with joined():
            told = [gather("word", {"from": me, "round": number}) for number in range(3)]
            other = gather("other", me * 10)
            left = processes.distributed.global_state.client.key_value_dir_get("ieat/gather/word/")
            gather("read", None)
            print(json.dumps([told, other, sorted({key.split("/")[3] for key, _ in left})]))
    """
    with Several(program, 3) as several:
        ends = several.ends()
    assert [code for code, _, _ in ends] == [0, 0, 0], ends
    rounds = [[{"from": process, "round": number} for process in range(3)] for number in range(3)]
    for _, out, _ in ends:
        assert json.loads(out.splitlines()[-1]) == [rounds, [0, 10, 20], ["2"]]  # the store does not grow


STUCK = {
    "python": "time.sleep(300)",
    "c": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)",
    "collective": "multihost_utils.sync_global_devices('never')",
    "gather": "gather('never', None)",
}


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("place", STUCK)
def test_one_that_fails_takes_the_others_along_wherever_they_are(place, failing):
    program = f"""
        from jax.experimental import multihost_utils
        with joined():
            collective()
            if me == {failing}:
                time.sleep(0.5)
                raise UserError("/data/train.jsonl: no such file")
            {STUCK[place]}
    """
    with Several(program, 3) as several:
        several.wait_for("ready")
        began = time.monotonic()
        ends = several.ends()
        took = time.monotonic() - began
    assert [code for code, _, _ in ends] == [2, 2, 2], ends
    assert took < 9, took
    for process, (_, _, err) in enumerate(ends):
        who = "error: " if process == failing else f"process {failing} ended: "
        assert f"{who}/data/train.jsonl: no such file\n" in err, err
        assert "Traceback" not in err
        assert "Check failure" not in err


def test_a_fault_of_ours_keeps_its_traceback_and_its_code():
    program = """
        with joined():
            if me == 1:
                {}["a"]
            time.sleep(300)
    """
    with Several(program) as several:
        (zero, _, told), (one, _, trace) = several.ends(30)
    assert (zero, one) == (1, 1)
    assert "Traceback" in trace
    assert told.endswith("process 1 ended: KeyError: 'a'\n")


@pytest.mark.parametrize("late", [0, 1])
def test_a_value_that_never_comes_has_a_name(late):
    program = f"""
        with joined():
            gather("begin", None)
            if me == {late}:
                time.sleep(300)
            gather("data", me, seconds=1)
    """
    with Several(program) as several:
        ends = several.ends(30)
    assert [code for code, _, _ in ends] == [1, 1], ends
    said = {0: "process 0 did not tell 'data' within 1 s", 1: "process 1 did not tell its 'data' within 1 s"}[late]
    assert all(said in err for _, _, err in ends), ends


def test_a_process_that_is_killed_is_missed_within_the_heartbeat():
    program = """
        with joined():
            gather("begin", None)
            print("ready", flush=True)
            time.sleep(300)
    """
    with Several(program, IEAT_HEARTBEAT="4") as several:
        several.wait_for("ready")
        several.all[1].kill()
        began = time.monotonic()
        assert several.all[0].wait(timeout=20) == -signal.SIGABRT
        assert time.monotonic() - began < 10


def test_a_signal_ends_one_that_waits_for_the_others_at_the_end():
    program = """
        with joined():
            gather("begin", None)
            print("ready", flush=True)
            if me == 1:
                time.sleep(300)
    """
    with Several(program) as several:
        several.wait_for("ready")
        time.sleep(0.5)
        several.all[0].send_signal(signal.SIGTERM)
        assert several.all[0].wait(timeout=5) == -signal.SIGTERM


@pytest.mark.parametrize("alone", [0, 1])
def test_processes_that_do_not_come_are_waited_for_with_a_word_and_an_end(alone):
    program = """
        processes.JOIN = 2.0
        with joined():
            pass
    """
    with Several(program, start=[alone]) as several:
        ((code, _, err),) = several.ends(30)
    assert code == 1
    assert f"error: process {alone} waited 2 s for the other processes" in err, err
    assert "not all of them came" in err
    assert "Check failure" not in err


@pytest.mark.parametrize(
    "environment",
    [
        {"IEAT_NUM_PROCESSES": ""},
        {"IEAT_NUM_PROCESSES": "two"},
        {"IEAT_NUM_PROCESSES": "0"},
        {"IEAT_PROCESS_ID": "-1"},
        {"IEAT_PROCESS_ID": "2"},
        {"IEAT_HEARTBEAT": "1.5"},
    ],
    ids=str,
)
def test_numbers_that_cannot_be_are_named(environment, monkeypatch):
    given = {"IEAT_COORDINATOR": "127.0.0.1:1", "IEAT_NUM_PROCESSES": "2", "IEAT_PROCESS_ID": "0"} | environment
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="^{}={}: ".format(*next(iter(environment.items())))), joined():
        pytest.fail("it was joined")


def test_a_port_that_is_taken_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Several("with joined(): pass", 2, start=[0], IEAT_COORDINATOR=address) as several:
            ((code, _, err),) = several.ends(30)
    assert code == 1
    assert f"error: process 0 cannot join the others at {address} (" in err, err
    assert "Traceback" not in err
