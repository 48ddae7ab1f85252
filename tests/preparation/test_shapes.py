"""`prepare shapes`, through the command: what it proposes fills rows better, and can be used as it is."""

import re
from pathlib import Path

import pytest
from helpers.tiny_stages import write_corpus

from ieat_jax import prepare
from ieat_jax.errors import UserError

TESTS = Path(__file__).parents[1]
RECIPE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.tiny_stages import recipe

def get_config(stage):
    config = recipe(Path({corpus!r}), stage)
    config.data.pack = 8
    config.data.shapes.tokens, config.data.shapes.targets = 700, 700
    return config
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, records=40)
    (folder / "mine.py").write_text(RECIPE.format(tests=str(TESTS), corpus=str(folder)))
    return folder


def table(text):
    """Name -> (size, full, proposed size, full)."""
    rows = re.findall(r"^(\w+) +(\d+) +(\d+)% +(\d+) +(\d+)%$", text, re.MULTILINE)
    return {name: tuple(map(int, values)) for name, *values in rows}


@pytest.mark.parametrize("stage", ["write", "align", "joint"])
def test_what_is_proposed_fills_rows(stage, corpus, capsys):
    assert prepare.main(["shapes", "--config", f"{corpus}/mine.py:{stage}"]) == 0
    first = capsys.readouterr().out
    before = table(first)
    assert ("clips" in before) == (stage != "write")
    assert ("teacher_tokens" in before) == (stage == "align")
    assert before["tokens"][3] > max(before["tokens"][1], 70)
    lines = re.findall(r"^config\.data\.shapes\.(\w+) = (\d+)$", first, re.MULTILINE)
    assert lines
    overrides = [f"--config.data.shapes.{name}={size}" for name, size in lines]
    assert prepare.main(["shapes", "--config", f"{corpus}/mine.py:{stage}", *overrides]) == 0
    again = table(capsys.readouterr().out)
    for name, (_, _, size, full) in before.items():
        assert again[name][:2] == (size, full), name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tokens", "0"], r"--tokens 0: a row holds at least 1"),
        (["--config.data.shapes.token=3"], r"token"),
        (["--config.data.shapes.tokens=80"], r"records are bad.*alone needs up to \d+ tokens"),
        (["--config.data.shapes.tokens=20"], r"no dialogue fits into a row.*needs 56 tokens"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(arguments, told, corpus):
    with pytest.raises(UserError, match=told):
        prepare.main(["shapes", "--config", f"{corpus}/mine.py:align", *arguments])
