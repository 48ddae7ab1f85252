"""A conversation in a terminal: thinking, reply and sound of every turn as they come."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from ieat_jax.errors import UserError
from ieat_jax.inference.generator import Generator, Reply
from ieat_jax.inference.live import stream
from ieat_jax.inference.prompt import UserTurn, load_audio
from ieat_jax.serving.sinks import Player, Sink, WavFile
from ieat_jax.text.checks import check_text

HELP = "say something; @FILE sends a sound file, /new forgets the conversation, /quit ends it"
HEADINGS = {"think": "think> ", "text": "reply> "}


class Conversation:
    """Turns and their answers, printed to stdout as they come; notes go to stderr.

    The speech of answer n is written to `out`, `_n` before its ending where `numbered`, and played by `play`.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        think: bool,
        out: Path | None = None,
        numbered: bool = True,
        play: str | None = None,
        trim: bool = False,
    ):
        """`trim`: of a clip that is longer than the model hears, keep the beginning."""
        self.generator, self.think, self.out, self.numbered, self.play = generator, think, out, numbered, play
        self.trim, self.speech = trim, out is not None or play is not None
        if self.speech:
            generator.require_speech()
        self.turns: list[UserTurn] = []
        self.answers = 0

    def hear(self, file: str | Path) -> UserTurn:
        """A turn of a sound file.

        Raises:
            AudioError: there is no such file, it cannot be read, or it is longer than the model hears.
        """
        return UserTurn(load_audio(file, self.generator.config.listen.clip_seconds, trim=self.trim))

    def say(self, turn: UserTurn) -> Reply:
        """Answer a turn; what is not answered to its end is not remembered."""
        self.answers += 1
        rate = self.generator.sample_rate if self.speech else 0
        file = None if self.out is None else WavFile(self._path(self.out), rate)
        sinks: list[Sink] = [] if file is None else [file]
        if self.play is not None:
            sinks.append(Player(self.play, rate))
        try:
            reply = self._print([*self.turns, turn], sinks)
        finally:
            for sink in sinks:
                sink.close()
        self.turns.append(turn.answered(reply.text))
        self._notes(reply)
        if file is not None:
            _tell_written(file, reply)
        return reply

    def _path(self, out: Path) -> Path:
        return out.with_name(f"{out.stem}_{self.answers}{out.suffix or '.wav'}") if self.numbered else out

    def _print(self, turns: list[UserTurn], sinks: list[Sink]) -> Reply:
        heading = ""
        for event in stream(self.generator, turns, think=self.think, speech=self.speech):
            if event.waveform is not None:
                for sink in sinks:
                    sink.write(event.waveform)
            elif event.kind in HEADINGS:
                if event.kind != heading:
                    print(("\n" if heading else "") + HEADINGS[event.kind], end="")
                    heading = event.kind
                print(event.text, end="", flush=True)
        print(flush=True)
        assert event.reply is not None  # the last event is the reply
        return event.reply

    def _notes(self, reply: Reply) -> None:
        if self.think and not reply.think_closed:
            _note("the model did not close its thinking; it was closed at the limit (--max-think)")
        if not reply.response_ended:
            _note("the reply was cut at the limit (--max-response)")


def _tell_written(file: WavFile, reply: Reply) -> None:
    if not file.samples:
        _note(f"the model said nothing; {file.path} is not written")
        return
    ended = "" if reply.speech_ended else " (cut at --max-speech-seconds)"
    print(f"wrote {file.path}: {file.samples / file.rate:.2f} s of speech{ended}", flush=True)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def chat(conversation: Conversation, lines: Iterable[str]) -> None:
    """Answer line by line until `/quit` or the last one; of a line that cannot be answered it says why and goes on."""
    conversation.generator.prompts.build([UserTurn(text=".")], think=conversation.think)  # can it think?
    print(HELP, flush=True)
    for line in lines:
        line = line.strip()
        if line == "/quit":
            return
        try:
            _take(conversation, line)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print(flush=True)
            _note("stopped; this turn is forgotten")


def _take(conversation: Conversation, line: str) -> None:
    if line == "/new":
        conversation.turns.clear()
        print("a new conversation", flush=True)
    elif line.startswith("/"):
        raise UserError(f"{line.split()[0]}: there is no such command; {HELP}")
    elif line.startswith("@"):
        name = line[1:].strip()
        if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
            name = name[1:-1]
        if not name:
            raise UserError("@ without a name; write @FILE, such as @hello.wav")
        conversation.say(conversation.hear(os.path.expanduser(check_text(name, "the name"))))
    elif line:
        conversation.say(UserTurn(text=check_text(line, "the line")))


def read_lines(prompt: str = "you> ") -> Iterable[str]:
    """Ask for lines until the input ends; half of a character is left to be told where the line is read."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    if sys.stdin.isatty():
        import readline  # noqa: F401  (lines can be edited, and come back by the arrow keys)
    while True:
        try:
            yield input(prompt)
        except EOFError:
            print(flush=True)
            return
