"""A run's folder has one owner at a time, which is a real process here."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from helpers.xla_flags import FAST_COMPILATION

from ieat_jax.runs import claim as module
from ieat_jax.runs.claim import Claim
from ieat_jax.runs.folder import RunError

PROGRAM = """
    import sys, time
    from ieat_jax.runs import claim
    claim.BEAT = 0.1
    if sys.argv[2] == "no locks":
        claim._lock = lambda file: None
    with claim.Claim(sys.argv[1]):
        print("mine", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Start a process that owns tmp_path/run."""
    started = []

    def start(*options):
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "run"), *(options or ("locks",))]
        environment = os.environ | {"XLA_FLAGS": FAST_COMPILATION}
        process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == "mine\n", process.stderr.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_folder_in_use_is_refused_by_name_and_a_dead_owner_is_followed(tmp_path, owner):
    process = owner()
    text = rf"run: in use by process {process.pid} on {socket.gethostname()} since 20\d\d-.*use another workdir"
    for _ in range(2):
        with pytest.raises(RunError, match=text):
            Claim(tmp_path / "run")
    process.send_signal(signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    with Claim(tmp_path / "run"):
        assert time.monotonic() - began < 2
        assert json.loads((tmp_path / "run/claim.json").read_text())["process"] == os.getpid()
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
            Claim(tmp_path / "run")
    assert not (tmp_path / "run/claim.json").exists()
    with Claim(tmp_path / "run"):
        pass


def test_an_owner_whose_lock_is_not_seen_gives_signs_of_life(tmp_path, owner, monkeypatch, capsys):
    """Another machine, on a file system whose locks do not reach this one."""
    monkeypatch.setattr(module, "BEAT", 0.1)
    monkeypatch.setattr(module, "DEAD", 1.0)
    monkeypatch.setattr(module, "_kernel", lambda: "of this machine")
    process = owner("no locks")
    with pytest.raises(RunError, match=f"in use by process {process.pid}"):
        Claim(tmp_path / "run")
    process.send_signal(signal.SIGSTOP)
    with Claim(tmp_path / "run"):
        assert "waiting 1 s for a sign of life" in capsys.readouterr().out
        process.send_signal(signal.SIGCONT)  # too late: it may not go on beside the new owner
        assert process.wait(10) == 2
        assert f"taken over by process {os.getpid()}" in process.stderr.read()
        assert json.loads((tmp_path / "run/claim.json").read_text())["process"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"host": 1}'])
def test_a_damaged_claim_stops_nobody(tmp_path, content, monkeypatch):
    monkeypatch.setattr(module, "DEAD", 0.2)
    (tmp_path / "claim.json").write_bytes(content)
    with Claim(tmp_path):
        pass


def test_a_folder_that_was_not_used_is_not_left_behind(tmp_path):
    with Claim(tmp_path / "new"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(RunError, match="is not a folder, or lies below a file; give another workdir"):
            Claim(path)
    with pytest.raises(RunError, match=r"/proc/run: cannot be written \(.*\); free space or correct the folder"):
        Claim("/proc/run")
    assert (tmp_path / "file").read_text() == ""
