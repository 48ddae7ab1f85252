"""The processes of a run: how they join, tell one another something small, and leave together when one fails.

What is told goes through the key-value store of JAX's distributed service: no device takes part, and no wait is without
end. A process that fails says so there, and the others, wherever they are, end with its sentence and its exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from jax._src import distributed  # the store has no public door; what of it is used stands in this file alone

from ieat_jax.cli import report
from ieat_jax.errors import UserError

# Set by TPU pods, multislice and `srun`: jax.distributed finds the rest by itself.
CLUSTER_VARIABLES = ("TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS", "SLURM_PROCID")
JOIN = 300.0  # seconds until all processes have to be there
WAIT = 1800.0  # seconds for what a process is asked to tell: the slowest reads data or a checkpoint
HEARTBEAT = 30  # seconds without a sign of life after which JAX gives a process up; IEAT_HEARTBEAT changes it
SHUTDOWN = 30  # seconds that a process whose work is done waits for the others
SLICE = 1.0  # seconds that a wait cannot be interrupted by a signal
LAST_WORDS = 5.0  # seconds that process 0, through which all is told, stays until the others have heard,
GOING = 0.5  # and then, until they are gone: JAX aborts a process that sees process 0 end
FAILED = 1  # exit code: nobody's mistake, worth another try

_calls: Counter[str] = Counter()
_leaving = threading.Lock()


class ProcessError(Exception):
    """Processes that cannot work together for now: one does not answer. A launcher may try again."""


def index() -> int:
    """Return the number of this process, without starting JAX's devices."""
    return distributed.global_state.process_id


def count() -> int:
    """Return how many processes the run has, without starting JAX's devices."""
    return distributed.global_state.num_processes if distributed.global_state.client is not None else 1


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside, this process is one of the run's, where it is one of several: a pod, Slurm, or IEAT_COORDINATOR by hand.

    By hand: IEAT_COORDINATOR=host:port, IEAT_NUM_PROCESSES, IEAT_PROCESS_ID (what `launch/local.sh` sets). An error
    that leaves this block ends all processes, with its exit code. At the end each waits for the others.

    Raises:
        UserError: IEAT_NUM_PROCESSES or IEAT_PROCESS_ID is missing, or is no such number.
    """
    _join()
    if count() == 1:
        yield
        return
    listening = threading.Thread(target=_listen, name="processes", daemon=True)
    listening.start()
    try:
        yield
        # All is saved: a signal ends the waiting. JAX's own handler would swallow it.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        gather("end", None)
    except ProcessError as error:
        leave(FAILED, f"error: {error}", told=f"{error}")
    except BaseException as error:
        _one_thread_leaves()
        code = report(error)
        _tell_all(code, f"{error}" if code != FAILED else f"{type(error).__name__}: {error}")
        end(code)
    with contextlib.suppress(Exception):
        distributed.global_state.client.key_value_set(f"ieat/leave/{index()}", "")
    listening.join(timeout=LAST_WORDS)  # a thread that comes back from C++ while Python ends aborts the process


def _join() -> None:
    import jax

    there = threading.Event()
    settings: dict[str, Any] = {
        "initialization_timeout": int(JOIN) + 60,  # JAX would abort with a trace of C++
        "heartbeat_timeout_seconds": _number("IEAT_HEARTBEAT", least=1, otherwise=HEARTBEAT),
        "shutdown_timeout_seconds": SHUTDOWN,
    }
    if os.environ.get("IEAT_COORDINATOR"):
        settings |= {
            "coordinator_address": os.environ["IEAT_COORDINATOR"],
            "num_processes": _number("IEAT_NUM_PROCESSES", least=1),
            "process_id": _number("IEAT_PROCESS_ID", least=0),
        }
        if settings["process_id"] >= settings["num_processes"]:
            raise UserError(
                f"IEAT_PROCESS_ID={settings['process_id']}: processes are counted from 0 to IEAT_NUM_PROCESSES - 1 = "
                f"{settings['num_processes'] - 1}"
            )
        if settings["process_id"] == 0:
            _check_port(settings["coordinator_address"])
    elif not any(os.environ.get(name) for name in CLUSTER_VARIABLES):
        return
    watch = threading.Thread(target=_say_that_it_waits, args=(there,), daemon=True)
    watch.start()
    try:
        jax.distributed.initialize(**settings)
    except jax.errors.JaxRuntimeError as error:
        state = distributed.global_state
        _say(
            f"error: process {state.process_id} cannot join the others at {state.coordinator_address} "
            f"({str(error).splitlines()[0]}); is the port in use, by an earlier attempt perhaps?"
        )
        end(FAILED)
    finally:
        there.set()
        watch.join()


def _check_port(address: str) -> None:
    """End where the port that process 0 listens on is taken: JAX's service may crash of it in C++."""
    with contextlib.suppress(ValueError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(address.rpartition(":")[2])))
        except OSError as error:
            _say(
                f"error: process 0 cannot join the others at {address} ({error.strerror}); is the port in use, by an "
                "earlier attempt perhaps?"
            )
            end(FAILED)


def _number(name: str, *, least: int, otherwise: int | None = None) -> int:
    text = os.environ.get(name, "").strip()
    if not text and otherwise is not None:
        return otherwise
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise UserError(f"{name}={text}: must be a whole number, {least} or more; IEAT_COORDINATOR needs it")
    return int(text)


def _say_that_it_waits(there: threading.Event) -> None:
    if there.wait(min(30.0, JOIN)):
        return
    state = distributed.global_state
    others = f"for the other processes, which join at {state.coordinator_address or 'a coordinator'}"
    _say(f"process {state.process_id} waits {others}, up to {JOIN:.0f} s")
    if not there.wait(JOIN - min(30.0, JOIN)):
        _say(
            f"error: process {state.process_id} waited {JOIN:.0f} s {others}; not all of them came: look at their "
            "logs, and start all of them at about the same time"
        )
        end(FAILED)


def gather(name: str, value: Any, *, seconds: float = WAIT) -> list[Any]:
    """Return what every process tells under `name`, in the order of the processes: small values that JSON holds.

    All processes call it, in the same order. Of a call that some do not make in time, all learn which those are.

    Raises:
        ProcessError: not all processes have told their value within `seconds`.
    """
    if count() == 1:
        return [json.loads(json.dumps(value))]
    client, here = distributed.global_state.client, index()
    number, _calls[name] = _calls[name], _calls[name] + 1
    key = f"ieat/gather/{name}/{number}"
    ends = time.monotonic() + seconds
    if here != 0:
        client.key_value_set(f"{key}/{here}", json.dumps(value))
        found = _get(f"{key}/all", ends + 10)
        if found is None:
            raise ProcessError(f"process 0 did not tell {name!r} within {seconds:.0f} s; look at its log")
        return json.loads(found)
    told, ends_of_patience = [json.dumps(value)], time.monotonic() + 30
    for process in range(1, count()):
        found = _get(f"{key}/{process}", min(ends, ends_of_patience))
        if found is None and ends_of_patience < ends:
            _say(f"waiting for process {process} and its {name}")
            ends_of_patience = ends
            found = _get(f"{key}/{process}", ends)
        if found is None:
            raise ProcessError(
                f"process {process} did not tell its {name!r} within {seconds:.0f} s of the others; look at its log"
            )
        told.append(found)
    client.key_value_set(f"{key}/all", f"[{','.join(told)}]")
    if number:  # which all have read, or they would not have told the present one
        client.key_value_delete(f"ieat/gather/{name}/{number - 1}/")
    return [json.loads(text) for text in told]


def _get(key: str, ends: float) -> str | None:
    """The value of a key once it is there, or None at the time `ends`."""
    while True:
        left = ends - time.monotonic()
        try:
            # In slices: Python handles signals between them.
            wait = max(int(1000 * min(SLICE, left)), 1)
            return distributed.global_state.client.blocking_key_value_get(key, wait)
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise ProcessError(f"process {index()} has lost process 0 ({str(error).splitlines()[0]})") from error
            if left <= SLICE:
                return None


def leave(code: int, text: str = "", *, told: str = "") -> NoReturn:
    """End all processes of the run with exit code `code`: this one says `text`, the others `told`, or `text`.

    Called from any thread, wherever the main one hangs.
    """
    _one_thread_leaves()
    if text:
        _say(text)
    if count() > 1:
        _tell_all(code, told or text)
    end(code)


def _one_thread_leaves() -> None:
    """Return in the first thread that is about to end this process, and says why; others wait for the end."""
    if not _leaving.acquire(blocking=False):
        threading.Event().wait(2 * LAST_WORDS)
        end(FAILED)


def _tell_all(code: int, text: str) -> None:
    word = json.dumps({"code": code, "text": f"process {index()} ended: {text}"})
    telling = threading.Thread(target=_tell, args=(word,), daemon=True)
    telling.start()
    telling.join(timeout=LAST_WORDS)


def _tell(word: str) -> None:
    client, ends = distributed.global_state.client, time.monotonic() + LAST_WORDS - GOING
    with contextlib.suppress(Exception):  # where process 0 is gone, so are all others in a moment
        for process in range(count()):
            with contextlib.suppress(Exception):  # it was told by another one
                if process != index():
                    client.key_value_set(f"ieat/leave/{process}", word)
        if index() == 0:
            _stay_for_others(ends)
        else:
            client.key_value_set(f"ieat/left/{index()}", "")


def _listen() -> None:
    """Wait for the word of a process that fails, and leave."""
    client, here = distributed.global_state.client, index()
    while True:
        try:
            word = client.blocking_key_value_get(f"ieat/leave/{here}", 3_600_000)
            break
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                return
    if not word or not _leaving.acquire(blocking=False):
        return
    heard = json.loads(word)
    _say(heard["text"])
    with contextlib.suppress(Exception):
        client.key_value_set(f"ieat/left/{here}", "")
        if here == 0:
            ends = time.monotonic() + LAST_WORDS - GOING
            telling = threading.Thread(target=_stay_for_others, args=(ends,), daemon=True)
            telling.start()
            telling.join(timeout=LAST_WORDS)
    end(heard["code"])


def _stay_for_others(ends: float) -> None:
    for process in range(1, count()):
        _get(f"ieat/left/{process}", ends)
    time.sleep(GOING)


def end(code: int) -> NoReturn:
    """End this process now, without waiting for its threads or for other processes."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(code)


def _say(text: str) -> None:
    with contextlib.suppress(Exception):
        print(text, file=sys.stderr, flush=True)
