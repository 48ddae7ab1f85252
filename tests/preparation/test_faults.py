"""`prepare check` on every kind of fault at once: each its code, in a process that neither breaks, hangs nor swells."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import bad_audio, bad_records

ROOT = Path(__file__).parents[2]
SECONDS, MOST_MEMORY = 120, 1 << 20  # KiB
# Runs a command and writes the memory that it took; in a process of its own, or pytest's memory counts as its child's.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def check(path, tmp_path, *more):
    """(exit code, line -> code, stderr, most memory in KiB) of `prepare check`."""
    command = [sys.executable, "-m", "ieat_jax.prepare", "check", "--records", str(path), *more]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(tmp_path / "memory"), *command],
            stdout=out,
            stderr=err,
            timeout=SECONDS,
        )
    told = (tmp_path / "err").read_text()
    assert "Traceback" not in told
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    return done.returncode, {line["line"]: line["code"] for line in lines}, told, int((tmp_path / "memory").read_text())


def test_every_kind_of_bad_sound_has_its_code(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    made = bad_audio.make_all(folder)
    assert len(made) >= 80
    good = {}
    for number, (kind, (content, _)) in enumerate(bad_audio.good().items()):
        (folder / f"good_{number}.wav").write_bytes(content)
        good[kind] = (None, f"good_{number}.wav")
    kinds = {**made, **good}
    lines = [json.dumps(bad_records.dialogue(kind, [bad_records.turn(1, split_audio_file=path)]))
             for kind, (_, path) in kinds.items()]  # fmt: skip
    records = folder / "all.jsonl"
    records.write_text("\n".join(lines))
    code, found, told, memory = check(records, tmp_path, "--max-seconds", f"{bad_audio.LIMIT:g}")
    assert code == 1
    assert {kind: found.get(line) for line, kind in enumerate(kinds, 1)} == {k: c for k, (c, _) in kinds.items()}
    assert told.splitlines()[-1] == "error: outside_root is never accepted, however few they are"
    assert f"{len(kinds)} records, {len(made)} bad (" in told
    assert memory <= MOST_MEMORY


def test_every_kind_of_bad_record_has_its_code(tmp_path):
    assert len(bad_records.BAD) >= 50
    escapes = ["/etc/passwd", "../x.wav", "a/../../x.wav", "C:\\x.wav"]
    kinds = bad_records.BAD | {path: (bad_records.bad_turn(split_audio_file=path), "outside_root") for path in escapes}
    lines = [bad_records.GOOD.replace('"good"', '"before"').encode(), bad_records.GOOD.encode(), b"", b" \t\r"]
    lines += [content.encode() if isinstance(content, str) else content for content, _ in kinds.values()]
    odd = bad_records.dialogue("a\u2028b", [bad_records.turn(text="x\u2029y\x85z")])
    records = tmp_path / "all.jsonl"
    records.write_bytes(b"\n".join([*lines, json.dumps(odd, ensure_ascii=False).encode()]))
    code, found, told, memory = check(records, tmp_path)
    assert code == 1
    # UTF-16 has a newline of its own, behind which a rest of a character stands.
    assert {kind: found.get(line) for line, kind in enumerate(kinds, 5)} == {k: c for k, (_, c) in kinds.items()}
    assert len(found) == len(kinds)
    assert f"{len(kinds) + 3} records, {len(kinds)} bad (" in told
    assert memory <= MOST_MEMORY


def test_labels_that_nobody_understands_are_refused_above_a_share(tmp_path):
    def written(strange):
        labels = ["grumpyish"] * strange + ["sad"] * (20 - strange)
        lines = [json.dumps(bad_records.dialogue(f"d{n}", [bad_records.turn(emotion=label)]))
                 for n, label in enumerate(labels)]  # fmt: skip
        (tmp_path / "all.jsonl").write_text("\n".join(lines))
        return check(tmp_path / "all.jsonl", tmp_path, "--max-bad-share", "0.2")

    code, found, told, _ = written(5)
    assert (code, found) == (1, {})
    assert "'grumpyish' x 5" in told
    assert written(3)[0] == 0


MAKERS = {"AudioError": 0, "StreamError": 0, "RecordError": 0, "LayoutError": 0, "Refusal": 0, "Wrong": 0, "_Reject": 0,
          "fail": 0, "Refused": 1, "note": 1, "Problem": 2}  # fmt: skip
CHOSEN = {"silent", "constant", "corrupt"}  # codes that are put into a variable first


def codes_of_sources():
    """Every code of a fault: the word that is given where an error is made, or a bad record noted."""
    found = set(CHOSEN)
    rooms = [ROOT / "ieat_jax" / room for room in ("audio", "data", "packing", "importers", "preparation")]
    for file in (file for room in rooms for file in room.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            place = (
                MAKERS.get(getattr(call.func, "id", getattr(call.func, "attr", "")))
                if isinstance(call, ast.Call)
                else None
            )
            if place is not None and len(call.args) > place:
                given = call.args[place]
                words = [given.body, given.orelse] if isinstance(given, ast.IfExp) else [given]
                found |= {word.value for word in words if isinstance(word, ast.Constant)}
    return found


def documented():
    text = (ROOT / "ieat_jax/data/README.md").read_text(encoding="utf-8")
    return text.partition("## Faults")[2].partition("\n## ")[0]


@pytest.mark.parametrize("code", sorted(codes_of_sources()))
def test_every_code_is_documented(code):
    assert re.search(rf"^\| `{code}` \|", documented(), re.MULTILINE), (
        f"{code}: say in ieat_jax/data/README.md what it is"
    )


def test_no_other_code_is_documented():
    listed = set(re.findall(r"^\| `(\w+)` \|", documented(), re.MULTILINE))
    assert listed == codes_of_sources()
    tested = {code for code, _ in bad_audio.files().values()} | {code for _, code in bad_records.BAD.values()}
    assert tested <= listed
