import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from ieat_jax.training.preemption import Asked, Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noticed_and_the_handler_is_given_back(number):
    before = signal.getsignal(number)
    with Preemption() as preemption:
        assert not preemption.requested(1)
        os.kill(os.getpid(), number)
        assert preemption.requested(2)
        assert preemption.requested(3)
        with pytest.raises(Asked), preemption.interruptible():
            pytest.fail("a run that is asked to leave does not begin to wait")
    assert signal.getsignal(number) is before


def test_what_waits_is_interrupted():
    with Preemption() as preemption:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Asked), preemption.interruptible():
            threading.Event().wait(30)
        assert preemption.requested(1)


def test_only_on_the_main_thread():
    failures = []

    def make():
        try:
            Preemption()
        except RuntimeError as error:
            failures.append(str(error))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert "main thread" in failures[0]


PROGRAM = """
    import sys, time, jax
    port, process = sys.argv[1:]
    jax.distributed.initialize("127.0.0.1:" + port, num_processes=2, process_id=int(process),
                               shutdown_timeout_seconds=10)
    from ieat_jax.training.preemption import Preemption
    with Preemption() as preemption:
        for step in range(1000):
            if step == 3:
                print("ready", flush=True)
            if preemption.requested(step):
                print("left at", step, flush=True)
                break
            time.sleep(0.02)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_processes_leave_at_the_same_step(number):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), port]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen([*command, str(n)], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(2)
    ]
    try:
        while "ready" not in (line := processes[1].stdout.readline()):
            if not line:
                pytest.fail(processes[1].communicate()[1][-2000:])
        processes[1].send_signal(number)  # one of two
        ends = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    steps = [out.split("left at")[1].split()[0] for out, _ in ends]
    assert steps[0] == steps[1]
    assert int(steps[0]) < 999
    assert [process.returncode for process in processes] == [0, 0]
