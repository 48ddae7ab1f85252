"""Sources that hang at one record, or tell how they are read, which reading processes can import."""

import os
import signal
import threading

import threadpoolctl

from ieat_jax.data.sources.jsonl import JsonLines


class ThreadedLines(JsonLines):
    """JSON lines; the most threads that a numerical library has, where sound is read, are written to `told`."""

    told = ""

    def waveform(self, number, turn, max_seconds):
        with open(self.told, "a") as file:
            file.write(f"{os.getpid()} {max(each['num_threads'] for each in threadpoolctl.threadpool_info())}\n")
        return super().waveform(number, turn, max_seconds)


class HangingLines(JsonLines):
    """JSON lines; reading the sound of record `stuck` takes for ever, or kills the process where `kills` is set."""

    stuck, kills, released = -1, False, threading.Event()

    def waveform(self, number, turn, max_seconds):
        if number == self.stuck:
            if self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            self.released.wait(3600)
        return super().waveform(number, turn, max_seconds)
