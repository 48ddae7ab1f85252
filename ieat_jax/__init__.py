"""Unified spoken language models with injected emotional-attribution thinking, trained in JAX.

`ieat_jax.load(RUN).reply("hello.wav")` talks to a trained run: see `ieat_jax.talk`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ieat_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from ieat_jax.talk import Talker


def load(path: str | Path, **options: Any) -> "Talker":
    """Load a trained run, to talk to it; `ieat_jax.talk.load` has the options. JAX is imported only now.

    Raises:
        RunError: no run there, or files that do not belong together.
    """
    from ieat_jax.talk import load

    return load(path, **options)
