"""The quick start's and the environment's logic, with an interpreter that only writes down what it is asked to do."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
  "-c import pip") exit ;;
  -m\\ pip*) echo "$*" >>"$CALLS"; exit "${PIP_CODE:-0}" ;;
  *\\ --check\\ *) [[ -z ${REAL:-} ]] && exit; echo "check $*" >>"$CALLS"; exec "$REAL" "$@" ;;
  *--show-config) cat "$CALLS.config" 2>/dev/null; exit ;;
esac
echo "$*" >>"$CALLS"
while (($#)); do
  case $1 in
    --out | --workdir) out=$2 ;;
    --config) stage=${2##*:} ;;
  esac
  last=$1
  shift
done
case $out in
  *.html | *.wav) echo "a table"; touch "$out" ;;
  *) mkdir -p "$out" ;;
esac
if [[ $out == */corpus ]]; then
  echo '{"turns": [{"split_audio_file": "audio/demo_test_00007_1.flac"}], "ieat_meta": {"kind": "congruent"}}' \\
    >"$out/test.jsonl"
fi
if [[ ${stage:-} == "${STOP_AT:-none}" ]]; then
  trap 'echo saved >>"$CALLS"; exit 75' TERM
  echo up
  for ((i = 0; i < 300; i++)); do sleep 0.1; done
fi
[[ ${stage:-} == "${FAIL_AT:-none}" ]] && exit 3
exit 0
"""


class QuickStart:
    """Runs of launch/quickstart.sh in folders with spaces, from another working directory."""

    def __init__(self, folder):
        self.folder, self.runs, self.calls_file = folder, folder / "my runs", folder / "calls"
        self.python = folder / "an env" / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)

    def start(self, *arguments, **environment):
        self.calls_file.write_text("")
        settings = {"IEAT_VENV": self.folder / "an env", "RUNS": "my runs", "CALLS": self.calls_file} | environment
        return subprocess.Popen(
            ["bash", ROOT / "launch/quickstart.sh", *arguments],
            env=os.environ | {name: str(value) for name, value in settings.items()},
            cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments, **environment):
        """(exit code, output, errors)."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self):
        """Which steps were run: 'prepare demo', 'train write', ..."""
        named = []
        for line in self.calls_file.read_text().splitlines():
            if "-m ieat_jax." in line:
                module, _, rest = line.partition("-m ieat_jax.")[2].partition(" ")
                stage = rest.partition("configs/demo.py:")[2].partition(" ")[0]
                named.append(f"{module} {stage or rest.split()[0]}")
        return named


@pytest.fixture
def quickstart(tmp_path):
    return QuickStart(tmp_path)


STEPS = [
    "prepare demo", "prepare tokenizer", "prepare codec", "prepare units", "train write", "train align",
    "evaluate score", "evaluate score", "train joint", "evaluate score", "evaluate score", "evaluate report",
    "generate --checkpoint",
]  # fmt: skip


def test_everything_runs_once(quickstart):
    code, out, err = quickstart.run()
    assert (code, err) == (0, "")
    assert quickstart.calls() == STEPS
    assert f"[{len(STEPS)}/{len(STEPS)}] reply: an answer to demo_test_00007_1.flac" in out
    assert "a table" in out
    assert f"{quickstart.runs}/report.html" in out
    assert f"{quickstart.runs}/reply.wav" in out
    activate = f"once per shell: source {str(quickstart.folder / 'an env').replace(' ', chr(92) + ' ')}/bin/activate\n"
    assert out.count(activate) == 2  # after the installation, and at the end
    code, out, _ = quickstart.run()
    assert code == 0
    assert quickstart.calls() == []
    assert "a table" in out


def test_a_dry_run_says_what_each_step_is_for_and_how_long_it_takes(quickstart):
    code, out, err = quickstart.run("--dry-run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    told, commands = lines[::2], lines[1::2]
    assert len(commands) == len(STEPS)
    for number, (line, command) in enumerate(zip(told, commands, strict=True), 1):
        assert re.fullmatch(rf"# \[{number}/{len(STEPS)}\] \w+: .+; (seconds|about \d+ (s|min)\b.*)", line)
        assert command.startswith("python -m ieat_jax.")
    assert quickstart.calls() == []
    assert not quickstart.runs.exists()


def test_a_failed_step_is_named_and_taken_up_again(quickstart):
    code, _, err = quickstart.run(FAIL_AT="align")
    assert code == 3
    assert "step align ended with exit code 3" in err
    kept = quickstart.runs / "align" / "checkpoint"
    kept.touch()
    half = quickstart.runs / "scores" / "align_start"
    half.mkdir(parents=True)
    code, _, _ = quickstart.run()
    assert code == 0
    assert quickstart.calls() == STEPS[5:]
    assert kept.exists()  # training resumes in its folder
    assert [path.name.partition(".old-")[0] for path in half.parent.glob("*.old-*")] == ["align_start"]  # not ours


def test_other_settings_repeat_what_depends_on_them(quickstart):
    assert quickstart.run()[0] == 0
    assert quickstart.run("--config.train.steps=3")[0] == 0
    assert quickstart.calls() == STEPS[4:]
    assert len(list(quickstart.runs.glob("write.old-*"))) == 1  # nothing that was trained is deleted
    assert quickstart.run(HOURS="0.2")[0] == 0
    assert quickstart.calls() == STEPS
    Path(f"{quickstart.calls_file}.config").write_text("another default")
    assert quickstart.run(HOURS="0.2")[0] == 0
    assert quickstart.calls() == STEPS[4:]


@pytest.mark.parametrize(
    ("override", "tried", "told"),
    [
        (
            "--config.train.stpes=20",
            ["write"],
            "there is no field config.train.stpes; did you mean config.train.steps?",
        ),
        ("--config.data.sources.text.weight=0.5", ["write", "align"], "there is no field config.data.sources.text"),
        ("--config.tokenizer.path=/nowhere", ["write"], "config.tokenizer.path: there is no /nowhere"),
        ("--config.mesh.tensor=3", ["write"], "config.mesh.tensor=3"),
    ],
)
def test_overrides_are_tried_on_all_stages_before_the_first_step(quickstart, override, tried, told):
    code, _, err = quickstart.run(override, REAL=sys.executable, PYTHONPATH=ROOT)
    assert code == 2
    assert told in err
    assert err.endswith(
        f"error: the overrides do not fit stage {tried[-1]}; the reason stands above. Nothing was begun\n"
    )
    assert quickstart.calls() == [f"train {stage}" for stage in tried]
    assert [path.name for path in quickstart.runs.iterdir()] == [".quickstart"]


def test_the_quick_look_of_the_scripts_head_passes_and_is_tried_once(quickstart):
    look = re.search(r"quickstart\.sh (--config\S+)", (ROOT / "launch/quickstart.sh").read_text())[1]
    code, out, err = quickstart.run(look, REAL=sys.executable, PYTHONPATH=ROOT)
    assert (code, err) == (0, "")
    assert [out.count(f"configs/demo.py:{stage}: nothing wrong is known") for stage in ("write", "align", "joint")] == [
        1
    ] * 3
    assert quickstart.calls() == ["train write", "train align", "train joint", *STEPS]
    assert quickstart.run(look, REAL=sys.executable, PYTHONPATH=ROOT)[0] == 0
    assert quickstart.calls() == []


def test_being_stopped_saves_and_resumes(quickstart):
    process = quickstart.start(STOP_AT="align")
    while "up\n" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 75
    assert "align was stopped; start this script again" in out
    assert "saved" in quickstart.calls_file.read_text()
    assert quickstart.run()[0] == 0
    assert quickstart.calls() == STEPS[5:]


def test_wrong_arguments_are_refused(quickstart):
    code, _, err = quickstart.run("--config.train.steps", "3")
    assert code == 2
    assert "--config.FIELD=VALUE" in err


def test_installs_only_what_has_changed(quickstart):
    def installed():
        lines = quickstart.calls_file.read_text().splitlines()
        return [shlex.split(line)[4:] for line in lines if line.startswith("-m pip install")]

    assert quickstart.run()[0] == 0
    assert installed() == [["--editable", ".[demo,eval]"]]
    assert quickstart.run()[0] == 0
    assert installed() == []
    stamp = quickstart.folder / "an env" / "ieat-installed"
    of, *rest = stamp.read_text().splitlines()
    stamp.write_text("\n".join([of + "0", *rest]) + "\n")  # as if pyproject.toml were another
    assert quickstart.run()[0] == 0
    assert installed() == [["--editable", ".[demo,eval]"]]
    stamp.unlink()
    code, _, err = quickstart.run(PIP_CODE="1")
    assert code == 2
    assert "pip could not install ieat_jax[demo,eval]" in err
    assert quickstart.run()[0] == 0
    assert installed() == [["--editable", ".[demo,eval]"]]


@pytest.mark.parametrize("gone", [False, True], ids=["in use", "gone"])
def test_the_environment_of_another_checkout_is_not_taken_over(quickstart, gone):
    other = quickstart.folder / "their check%out"
    if not gone:
        other.mkdir()
        (other / "pyproject.toml").touch()
    notes = quickstart.folder / "an env/lib/python3.11/site-packages/ieat_jax-0.1.0.dist-info/direct_url.json"
    notes.parent.mkdir(parents=True)
    notes.write_text(json.dumps({"dir_info": {"editable": True}, "url": other.as_uri()}))
    code, out, err = quickstart.run()
    if gone:
        assert (code, err) == (0, "")
        assert f"was the environment of {other}, which is gone: it is taken over" in out
    else:
        assert code == 2
        assert quickstart.calls_file.read_text() == ""
        assert f"an env is the environment of {other}, and would be of {ROOT} afterwards" in err


def test_the_environment_of_this_checkout_is_used(quickstart):
    notes = quickstart.folder / "an env/lib/python3.11/site-packages/ieat_jax-0.1.0.dist-info/direct_url.json"
    notes.parent.mkdir(parents=True)
    notes.write_text(json.dumps({"dir_info": {"editable": True}, "url": ROOT.as_uri()}))
    code, out, err = quickstart.run()
    assert (code, err) == (0, "")
    assert "taken over" not in out


def test_an_unsuitable_python_is_named(tmp_path):
    environment = os.environ | {"IEAT_VENV": str(tmp_path / "none"), "PYTHON": "/bin/false"}
    began = time.monotonic()
    found = subprocess.run(
        ["bash", ROOT / "launch/quickstart.sh"], env=environment | {"RUNS": str(tmp_path / "runs")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 2
    assert "PYTHON=/bin/false" in found.stderr
    assert "Python 3.11, 3.12 or 3.13" in found.stderr
    assert time.monotonic() - began < 10
