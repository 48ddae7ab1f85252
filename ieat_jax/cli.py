"""How every entry point begins and ends: the head of its parser, its exit code, and errors as sentences."""

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from ieat_jax.errors import UserError
from ieat_jax.storage import StorageError, local_path
from ieat_jax.version import __version__


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
        argparse.ArgumentTypeError: it is the address of an object store.
    """
    try:
        return local_path(text, "")
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error).lstrip()) from error


def exit_with(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code: 2 after a UserError (message on stderr), 130 when interrupted.

    Any other error is a bug of ours and keeps its traceback (exit code 1).
    """
    try:
        code = main()
    except (UserError, KeyboardInterrupt) as error:
        code = report(error)
    sys.exit(code or 0)


def report(error: BaseException) -> int:
    """Say on stderr what ends a program, and return its exit code: a sentence for people, a traceback of ours."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    traceback.print_exception(error)
    return 1
