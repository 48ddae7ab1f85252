"""An encoder of audio files whose process dies of some of them, as of a segmentation fault."""

import os

from ieat_jax.preparation import units

_encode = units._encode


def encode(job):
    """As `units._encode`, but a file with 'crash' in its name ends the process."""
    if "crash" in job[0]:
        os._exit(11)
    return _encode(job)
