"""A source whose storage hangs at one record, which reading processes can import."""

import os
import signal
import time

from ieat_jax.data.sources.jsonl import JsonLines


class HangingLines(JsonLines):
    """JSON lines; reading the sound of record `stuck` takes for ever, or kills the process where `kills` is set."""

    stuck, kills = -1, False

    def waveform(self, number, turn, max_seconds):
        if number == self.stuck:
            if self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)
        return super().waveform(number, turn, max_seconds)
