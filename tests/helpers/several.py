"""Real processes of one program, joined over loopback as a run's are."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest

HEAD = """
import json, os, sys, time
import ieat_jax.processes as processes
from ieat_jax.errors import UserError
from ieat_jax.processes import gather, joined
me = int(os.environ["IEAT_PROCESS_ID"])

def collective():
    import jax
    from jax.experimental import multihost_utils
    gather("devices", None)
    multihost_utils.sync_global_devices("together")
    print("ready", flush=True)

"""


class Several:
    """Processes of one program; what they print, and how they end."""

    def __init__(self, program, count=2, *, start=None, **environment):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        shared = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "IEAT_COORDINATOR": coordinator} | environment
        self.all = [
            subprocess.Popen(
                [sys.executable, "-c", HEAD + textwrap.dedent(program)],
                env=shared | {"IEAT_NUM_PROCESSES": str(count), "IEAT_PROCESS_ID": str(number)},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for number in (range(count) if start is None else start)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.all:
            process.kill()
            process.communicate()

    def wait_for(self, word):
        for process in self.all:
            while word not in (line := process.stdout.readline()):
                if not line:
                    pytest.fail(process.communicate()[1][-3000:])

    def ends(self, seconds=60):
        """[(exit code, stdout, stderr)], in the order of the processes."""
        outputs = [process.communicate(timeout=seconds) for process in self.all]
        return [(process.returncode, *output) for process, output in zip(self.all, outputs, strict=True)]
