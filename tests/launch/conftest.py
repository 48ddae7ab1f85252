"""Fake clusters: programs that write down what they are asked to do, for the tests of the launchers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tpu_vm import GCLOUD

ROOT = Path(__file__).resolve().parents[2]
# Notes its arguments, then does what the file of its name beside the notes says.
RECORDER = """#!/usr/bin/env bash
printf '%s\\0' "${0##*/}" "$@" $'\\36' >>"$NOTES/calls"
# The next line of a file; the last one stays.
take() {
  head -n 1 "$NOTES/$1"
  (($(wc -l <"$NOTES/$1") < 2)) || sed -i 1d "$NOTES/$1"
}
[[ ! -e $NOTES/${0##*/} ]] || . "$NOTES/${0##*/}"
"""


class Cluster:
    """A folder of fake programs, first on PATH, that is also home and working directory of what is started."""

    root = ROOT

    def __init__(self, folder):
        self.folder, self.notes, self.bin = folder, folder / "notes", folder / "bin"
        self.notes.mkdir()
        self.bin.mkdir()

    def program(self, name, text):
        self.bin.mkdir(exist_ok=True)
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def fake(self, name, behaviour=""):
        """A program that notes its calls and then sources `behaviour`."""
        self.program(name, RECORDER)
        self.note(name, behaviour)

    def note(self, name, *lines):
        (self.notes / name).write_text("".join(f"{line}\n" for line in lines))

    def noted(self, name):
        return (self.notes / name).read_text()

    def environment(self, **more):
        dropped = ("LIBTPU_INIT_ARGS", "XLA_FLAGS", "VIRTUAL_ENV", "IEAT_VENV", "BACKOFF", "POLL", "GRACE")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        fakes = {"PATH": f"{self.bin}:{kept['PATH']}", "NOTES": str(self.notes), "HOME": str(self.folder)}
        return kept | fakes | {name: str(value) for name, value in more.items()}

    def start(self, script, *arguments, **environment):
        return subprocess.Popen(
            ["bash", ROOT / "launch" / script, *map(str, arguments)],
            env=self.environment(**environment), cwd=self.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=_heed_ctrl_c,
        )  # fmt: skip

    def run(self, script, *arguments, **environment):
        """(exit code, output, errors)."""
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self):
        """The argument lists of all calls of fake programs so far."""
        file = self.notes / "calls"
        return [call.split("\0")[:-1] for call in file.read_text().split("\36\0")[:-1]] if file.exists() else []


def _heed_ctrl_c():
    """What a shell starts in its background, these tests among it, ignores Ctrl-C, and no script can undo that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


@pytest.fixture
def tpu(cluster):
    """A cluster whose gcloud tells `states`, one a call, and ends training with `codes`, one a call."""
    cluster.fake("gcloud", GCLOUD)
    cluster.note("states", "ACTIVE")
    cluster.note("codes", 0)
    return cluster


@pytest.fixture
def bare_path(tmp_path):
    """PATH of a machine without gcloud, kubectl, sbatch and Python packages."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("bash", "env", "dirname", "sed", "seq", "date", "mktemp", "cat", "rm"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (folder / name).symlink_to(found)
    (folder / "python3").symlink_to(Path(sys.executable).resolve())  # of the system: it has none of our packages
    return str(folder)


# A host of the second of two slices of two hosts.
CURL = """#!/usr/bin/env bash
case $* in
  *agent-worker-number) echo 1 ;;
  *worker-network-endpoints) echo "${ENDPOINTS:-unknown:unknown:10.0.1.1,unknown:unknown:10.0.1.2}" ;;
  *tpu-env) printf '%b' "${TPU_ENV-MEGASCALE_NUM_SLICES: '2'\\nMEGASCALE_SLICE_ID: '1'\\n}"
    printf '%b' "${TPU_ENV-MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.1:8080'\\n}" ;;
esac
"""


@pytest.fixture
def worker(cluster):
    cluster.program("curl", CURL)
    yield cluster
    cluster.run("tpu_worker.sh", "stop", GRACE=0)
