"""Where the sound of a reply goes as it comes: a WAV file that grows, and a program that plays it."""

import contextlib
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from ieat_jax.audio.files import AudioError
from ieat_jax.errors import UserError


class Sink(Protocol):
    """Takes sound piece by piece."""

    def write(self, waveform: np.ndarray) -> None:
        """Take the next samples."""
        ...

    def close(self) -> None:
        """Take the end; what was written stays."""
        ...


def pcm16(waveform: np.ndarray) -> bytes:
    """Samples in [-1, 1] as 16-bit little-endian integers; louder ones are clipped. As soundfile writes them."""
    return np.clip(np.rint(np.asarray(waveform, np.float64) * 32768), -32768, 32767).astype("<i2").tobytes()


class WavFile:
    """A 16-bit mono WAV that is whole after every piece; without any there is no file."""

    def __init__(self, path: Path, rate: int):
        self.path, self.rate, self.samples = path, rate, 0
        self._file: soundfile.SoundFile | None = None

    def write(self, waveform: np.ndarray) -> None:
        """Add samples, and bring the header up to date.

        Raises:
            AudioError: the file cannot be written.
        """
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = soundfile.SoundFile(self.path, "w", self.rate, 1, "PCM_16", format="WAV")
            self._file.write(np.clip(np.asarray(waveform, np.float32), -1.0, 1.0))
            self._file.flush()
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioError("unwritable", self.path, f"cannot be written ({error}); give another place") from error
        self.samples += len(waveform)

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()


class Player:
    """A program that plays raw 16-bit mono samples from its standard input."""

    def __init__(self, command: str, rate: int):
        self.command = command
        words = [word.replace("RATE", str(rate)) for word in player_words(command)]
        try:
            self._program = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        except OSError as error:
            raise UserError(f"--play {command}: cannot be started ({error.strerror})") from error

    def write(self, waveform: np.ndarray) -> None:
        """Give samples to the program.

        Raises:
            UserError: it has ended already.
        """
        assert self._program.stdin is not None
        try:
            self._program.stdin.write(pcm16(waveform))
            self._program.stdin.flush()
        except BrokenPipeError as error:
            raise UserError(f"--play {self.command}: the program ended before the sound did") from error

    def close(self) -> None:
        """Wait until the program has played what it was given."""
        assert self._program.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `write` has told it, or nothing was to be played
            self._program.stdin.close()
        self._program.wait()


def player_words(command: str) -> list[str]:
    """Read the command of `--play`.

    Raises:
        UserError: it is empty, quotes are not closed, or there is no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--play {command}: {str(error).lower()}") from error
    if not words or shutil.which(words[0]) is None:
        raise UserError(
            f"--play {command}: there is no program of this name; give one that plays raw sound from its input, such "
            "as 'aplay -q -t raw -f S16_LE -c 1 -r RATE'"
        )
    return words
