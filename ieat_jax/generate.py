"""Talk to a trained run: `python -m ieat_jax.generate --checkpoint RUN --audio hello.wav --out reply.wav`.

Give `--audio` or `--text` once per user turn, in order; every turn is answered, and the model's own answers are the
history of the next one. Thinking and reply are printed as they come; the speech of turn n is written to OUT (several
turns: OUT with `_n` before the ending).

    python -m ieat_jax.generate --checkpoint RUN --chat

talks in the terminal, the model kept loaded: a line is what you say, `@hello.wav` a sound file; `/new` begins a new
conversation, `/quit` or the end of the input ends with 0.
"""

import argparse

from ieat_jax.audio.files import AudioError
from ieat_jax.cli import add_output, exit_with, parser_of
from ieat_jax.errors import UserError
from ieat_jax.serving.options import add_options, load_generator
from ieat_jax.storage import local_path


class _AppendTurn(argparse.Action):
    """Keeps `--audio` and `--text` in the order in which they were given."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.turns = [*(namespace.turns or []), (option_string.lstrip("-"), values)]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("generate", __doc__)
    parser.add_argument("--audio", dest="turns", action=_AppendTurn, metavar="FILE", help="a spoken user turn (repeat)")
    parser.add_argument(
        "--text", dest="turns", action=_AppendTurn, metavar="WORDS", help="a written user turn (repeat)"
    )
    parser.add_argument("--chat", action="store_true", help="go on in the terminal, line by line")
    parser.add_argument(
        "--trim", action="store_true", help="of a clip that is longer than the model hears, take the beginning"
    )
    parser.add_argument(
        "--think", action=argparse.BooleanOptionalAction, default=True, help="think before answering (default: yes)"
    )
    add_output(parser, "the spoken reply (.wav), as it comes", required=False, folder=False)
    parser.add_argument(
        "--play",
        metavar="COMMAND",
        help="play replies as they come, by a program that reads raw sound: 'aplay -q -t raw -f S16_LE -c 1 -r RATE'",
    )
    add_options(parser)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Everything that can be wrong before a model is loaded."""
    if not arguments.turns and not arguments.chat:
        raise UserError("generate: give at least one user turn with --audio FILE or --text WORDS, or --chat")
    for kind, value in arguments.turns or []:
        if kind == "audio" and not local_path(value, "generate: --audio").is_file():
            raise UserError(f"generate: --audio {value}: there is no such file")
        if kind == "text" and not value.strip():
            raise UserError("generate: --text is empty")
    if arguments.out and arguments.out.suffix.lower() not in ("", ".wav"):
        raise UserError(f"generate: --out {arguments.out}: speech is written as .wav")
    if arguments.out and arguments.out.is_dir():
        raise UserError(f"generate: --out {arguments.out} is a folder; name a .wav file")
    if arguments.play is not None:
        from ieat_jax.serving.sinks import player_words

        player_words(arguments.play)


def _check_clips(arguments: argparse.Namespace) -> None:
    """Whether the model hears the whole of every clip, by the run's configuration and the clips' headers."""
    clips = [value for kind, value in arguments.turns or [] if kind == "audio"]
    if not clips or arguments.trim:
        return
    from ieat_jax.inference.prompt import check_length
    from ieat_jax.runs.folder import read_config

    seconds = read_config(arguments.checkpoint).model.listen.clip_seconds
    for clip in clips:
        try:
            check_length(clip, seconds)
        except AudioError as error:
            if error.code != "too_long":
                raise
            raise UserError(f"generate: --audio {error}; shorten it, or take its beginning with --trim") from error


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    _check_clips(arguments)
    from ieat_jax.inference.prompt import UserTurn
    from ieat_jax.serving.terminal import Conversation, chat, read_lines

    turns = arguments.turns or []
    conversation = Conversation(
        load_generator(arguments),
        think=arguments.think,
        out=arguments.out,
        numbered=arguments.chat or len(turns) > 1,
        play=arguments.play,
        trim=arguments.trim,
    )
    for kind, value in turns:
        conversation.say(conversation.hear(value) if kind == "audio" else UserTurn(text=value))
    if arguments.chat:
        chat(conversation, read_lines())
    return 0


if __name__ == "__main__":
    exit_with(main)
