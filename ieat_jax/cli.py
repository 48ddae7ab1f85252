"""How every entry point begins and ends: the head of its parser, its exit code, and errors as sentences."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ieat_jax.errors import UserError
from ieat_jax.storage import StorageError, check_writable, local_path
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


class _Output(argparse.Action):
    """Takes the path of something that will be written, and refuses it now where that could not be done later."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        try:
            check_writable(values)
        except StorageError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        setattr(namespace, self.dest, values)


def add_output(parser: argparse.ArgumentParser, what: str, *, flag: str = "--out", required: bool = True) -> None:
    """Add the argument that says where a command writes `what`.

    One rule for all commands: folders that are missing are made, when there is something to write.
    """
    words = f"{what}; missing folders are made"
    parser.add_argument(flag, required=required, type=path_argument, action=_Output, help=words)


def exit_with(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its code: 2 after a UserError (message on stderr), 130 when interrupted.

    Any other error is a bug of ours and keeps its traceback (exit code 1).
    """
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code or 0)
