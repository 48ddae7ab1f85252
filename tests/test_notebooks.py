"""Notebooks run as they are, and what is printed in them is what they print."""

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def executor():
    spec = importlib.util.spec_from_file_location("notebooks_execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_stored_in_it(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    stored = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    again = executor().run_cells(notebook)
    assert again == stored, f"the outputs in {path.name} are old: python notebooks/execute.py {path}"


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
