"""How every entry point begins and ends: the head of its parser, its exit code, and errors as sentences."""

import argparse
import errno
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ieat_jax.errors import UserError
from ieat_jax.storage import StorageError, check_writable, local_path
from ieat_jax.version import __version__

# What a disk or its owner refuses in the midst of work: nobody's bug.
REFUSED = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG,
)  # fmt: skip


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """Make the parser of `python -m ieat_jax.MODULE`: its help is the text of the module, options are written in full.

    Options that it does not know cannot pass for abbreviations: `--config.FIELD=VALUE` is no `--config`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m ieat_jax.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ieat_jax {__version__}")
    return parser


def path_argument(text: str) -> Path:
    """Read an argument that names a file or folder: the `type` of every such argument.

    Raises:
        argparse.ArgumentTypeError: it is the address of an object store, or empty (a variable that is not set).
    """
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a path ('.' is the current folder)")
    try:
        return local_path(text, "")
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error).lstrip()) from error


def place_argument(text: str) -> Path | str:
    """Read an argument that names a file or folder, here or at gs://, which `storage.open_place` opens.

    Raises:
        argparse.ArgumentTypeError: it is the address of another object store.
    """
    return text if text.startswith("gs://") else path_argument(text)


class _Output(argparse.Action):
    """Takes the path of something that will be written, and refuses it now where that could not be done later."""

    folder: bool | None = True

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        if isinstance(values, Path):  # an address is tried when it is opened
            folder = values.suffix != ".jsonl" if self.folder is None else self.folder
            check_writable(values, self.option_strings[0], folder=folder)
        setattr(namespace, self.dest, values)


class _OutputFile(_Output):
    folder = False


class _OutputEither(_Output):
    folder = None


def add_output(
    parser: argparse.ArgumentParser,
    what: str,
    *,
    flag: str = "--out",
    required: bool = True,
    folder: bool | None = True,
    remote: bool = False,
) -> None:
    """Add the argument that says where a command writes `what`, a folder or a file; None: a file if it ends in .jsonl.

    `remote`: it may be at gs://.

    One rule for all commands: folders that are missing are made, when there is something to write; what could not be
    written is refused, by a StorageError, when the arguments are read.
    """
    action = {True: _Output, False: _OutputFile, None: _OutputEither}[folder]
    words = f"{what}; missing folders are made"
    parser.add_argument(
        flag, required=required, type=place_argument if remote else path_argument, action=action, help=words
    )


def exit_with(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code: 2 after a UserError (message on stderr), 130 when interrupted.

    What a disk refuses, in writing or reading, is a sentence and 2, too.

    Any other error is a bug of ours and keeps its traceback (exit code 1).
    """
    try:
        code = main()
    except (UserError, OSError, KeyboardInterrupt) as error:
        code = report(error)
    sys.exit(code or 0)


def report(error: BaseException) -> int:
    """Say on stderr what ends a program, and return its exit code: a sentence for people, a traceback of ours."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    if isinstance(error, OSError) and error.errno in REFUSED:
        place = f"{error.filename}: " if error.filename else ""
        sentence = f"error: {place}{error.strerror}; free space, or give a place that this user may use"
        print(sentence, file=sys.stderr, flush=True)
        return 2
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    traceback.print_exception(error)
    return 1
