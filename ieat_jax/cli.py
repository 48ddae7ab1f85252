"""How every entry point ends: its exit code, and errors as sentences for people."""

import sys
from collections.abc import Callable

from ieat_jax.errors import UserError


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
