"""Notebooks run as they are, and what is stored in them is what they print and show."""

import base64
import functools
import importlib.util
import itertools
import json
import re
from pathlib import Path

import pytest
from helpers import taught_run, tiny_run

from ieat_jax.inference.generator import Generator

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
DATA = re.compile(r"data:(\w+/\w+);base64,([A-Za-z0-9+/=]+)")
NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


def executor():
    spec = importlib.util.spec_from_file_location("notebooks_execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differences(again, stored):
    """Where a picture or a page is not as stored; CPUs may differ a little in numbers, libraries in encoded bytes."""
    (again, embedded), (stored, kept) = ((DATA.sub("", text), DATA.findall(text)) for text in (again, stored))
    if NUMBER.sub("", again) != NUMBER.sub("", stored):
        yield "other words"
    numbers = (map(float, NUMBER.findall(text)) for text in (again, stored))
    yield from (pair for pair in itertools.zip_longest(*numbers) if abs(pair[0] - pair[1]) > 3)
    if [kind for kind, _ in embedded] != [kind for kind, _ in kept]:
        yield "other pictures or sounds"
    for (kind, new), (_, old) in zip(embedded, kept, strict=False):
        sizes = [len(base64.b64decode(text, validate=True)) for text in (new, old)]
        if min(sizes) < 500 or not 0.8 < sizes[0] / sizes[1] < 1.25:
            yield f"{kind} of {sizes[0]} bytes, stored are {sizes[1]}"


@pytest.mark.parametrize("path", [FOLDER / "ieat_tour.ipynb"], ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_stored_in_it(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    stored = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    again = executor().run_cells(notebook)
    for cell, (new, old) in enumerate(zip(again, stored, strict=True), 1):
        for output, known in zip(new, old, strict=True):
            rich = {kind for kind in output.get("data", {}) if kind != "text/plain"}
            assert rich == {kind for kind in known.get("data", {}) if kind != "text/plain"}
            for kind in rich:
                found = list(differences("".join(output["data"].pop(kind)), "".join(known["data"].pop(kind))))
                assert found == [], f"cell {cell} of {path.name} shows something else than is stored"
    assert again == stored, f"the outputs in {path.name} are old: python notebooks/execute.py {path}"


def test_the_tour_shows_a_run_of_the_readers_own(tmp_path, monkeypatch):
    run = tiny_run.save_run(tmp_path / "run")
    monkeypatch.setattr(Generator, "from_run", functools.partial(Generator.from_run, limits=tiny_run.LIMITS))
    notebook = json.loads((FOLDER / "ieat_tour.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    *_, last = cells
    source = "".join(last["source"])
    assert source.startswith('RUN = ""')
    short = "rows = [(emotion, waveform[:12000], thought) for emotion, waveform, thought in rows[:2]]"
    own = source.replace('RUN = ""', f"RUN = {str(run)!r}", 1)
    outputs = executor().run_cells(
        {"cells": [*cells[:3], *({"cell_type": "code", "source": [t]} for t in (short, own))]}
    )
    (page,) = outputs[-1][0]["data"]["text/html"]
    assert page.count("<audio") == page.count("<img") == page.count(" -&gt; ") == 2


def test_an_exported_run_says_the_same_in_transformers(tmp_path):
    """What is stored was made with the quick start's run; here, with one that has learned its dialogues by heart."""
    run = tiny_run.save_run(tmp_path / "run", model=taught_run.taught_run().model)
    notebook = json.loads((FOLDER / "export.ipynb").read_text(encoding="utf-8"))
    first, *cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert [line.split(" = ")[0] for line in first["source"]] == ["RUN", "TEXTS"]
    texts = taught_run.SAID[:3]
    own = {"cell_type": "code", "source": [f"RUN, TEXTS = {str(run)!r}, {texts!r}"]}
    printed = ["".join(outputs[0]["text"]) for outputs in executor().run_cells({"cells": [own, *cells]}) if outputs]
    for said in (printed[0], printed[2]):
        assert all(f"says:   {reply}" in said for reply in taught_run.REPLIES[:3])
        assert all(f"thinks: {thought}" in said for thought in taught_run.THOUGHT[:3])
    assert "llm/model.safetensors" in printed[1]


def test_a_picture_that_changed_is_noticed():
    sound = base64.b64encode(bytes(600)).decode()
    shown = f'<b>sad</b> 0.63 <audio src="data:audio/mpeg;base64,{sound}">'
    assert list(differences(shown, shown)) == []
    assert list(differences(shown.replace("0.63", "0.62"), shown)) == []
    short = base64.b64encode(bytes(300)).decode()
    for changed in (
        shown.replace("sad", "glad"),
        shown.replace("0.63", "9"),
        shown.replace(sound, short),
        "<b>sad</b> 1",
    ):
        assert list(differences(changed, shown)) != []


def test_values_and_errors_of_cells():
    cells = [{"cell_type": "code", "source": text} for text in (["a = 2\n", "print('x')\n", "a + 1"], ["a = 3"], ["a"])]
    first, second, third = executor().run_cells({"cells": [{"cell_type": "markdown", "source": ["# T"]}, *cells]})
    assert [output["output_type"] for output in first] == ["stream", "execute_result"]
    assert first[0]["text"] == ["x\n"]
    assert first[1]["data"] == {"text/plain": ["3"]}
    assert second == []
    assert third[0]["data"]["text/plain"] == ["3"]
    with pytest.raises(ZeroDivisionError):
        executor().run_cells({"cells": [{"cell_type": "code", "source": ["1 / 0"]}]})


def test_a_value_that_shows_itself_is_stored_as_what_it_shows():
    source = ["class Shown:\n", "    def _repr_svg_(self):\n", "        return '<svg/>'\n", "Shown()"]
    ((output,),) = executor().run_cells({"cells": [{"cell_type": "code", "source": source}]})
    assert output["data"]["image/svg+xml"] == ["<svg/>"]
