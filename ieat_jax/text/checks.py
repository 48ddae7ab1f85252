"""What a text has to be, wherever it comes from: a file, an argument, Python."""

from ieat_jax.errors import UserError


class TextError(UserError):
    """A text that cannot be read."""


def check_text(text: str, where: str = "a text", *, blank: bool = True) -> str:
    """The text, if it can be written as UTF-8; a record's texts get the same check from their file.

    Python makes half of a character pair of an argument's bytes that are not UTF-8.

    Args:
        text: to be read, thought or said.
        where: names it in messages, such as "--text" or "turn 2".
        blank: whether one of blanks alone will do.

    Raises:
        TextError: it is no string, holds NUL or half of a character pair, or is blank where that will not do.
    """
    if not isinstance(text, str):
        raise TextError(f"{where} must be a string, not {type(text).__name__}")
    if "\0" in text:
        raise TextError(f"{where} holds the character NUL: {text[:40]!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(
            f"{where} is not UTF-8: byte or half of a pair at character {error.start}: {text[:40]!a}"
        ) from error
    if not blank and not text.strip():
        raise TextError(f"{where} is {'blank' if text else 'empty'}; leave it out, or say something")
    return text
