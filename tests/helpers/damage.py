"""Files with one bit or one character changed, and what the code that reads them makes of each."""

import contextlib
import io
import os
import signal

import numpy as np

from ieat_jax.errors import UserError

CHARACTERS = [*b'0123456789-+.eE"{}[]()<>,:;/\\_ axyzNnTtFf\t\n', 0, 0x80, 0xC3, 0xFF]
SECONDS = 60  # for one file: more is a hang


def amount(flips, edits):
    """How many of each: the environment's FUZZ=FLIPS,EDITS, else as given."""
    return tuple(map(int, os.environ.get("FUZZ", f"{flips},{edits}").split(",")))


def damages(content, flips, edits, seed=0):
    """(what was done, the content then): flips of single bits, then edits of single characters."""
    rng = np.random.default_rng(seed)
    for number in range(flips + edits):
        made = bytearray(content)
        at = int(rng.integers(len(made)))
        if number < flips:
            made[at] ^= 1 << int(rng.integers(8))
            yield f"bit flipped in byte {at}", bytes(made)
            continue
        kind, character = rng.integers(3), int(rng.choice([each for each in CHARACTERS if each != made[at]]))
        made[at : at + (kind != 1)] = [character] if kind != 2 else []
        yield f"byte {at} {('changed to', 'preceded by', 'removed, not')[kind]} {bytes([character])!r}", bytes(made)


class Hang(Exception):
    """It took too long."""


def outcome(call):
    """('done', what `call` returns), or ('refused', the sentence). Whatever else it raises is a fault of ours."""

    def ring(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return "done", call()
    except UserError as error:
        return "refused", str(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
