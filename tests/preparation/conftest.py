import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory):
    """A demo corpus of half a minute, spoken in a process of its own."""
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    build = "build_demo(sys.argv[1], hours=0.01, text_dialogues=40, workers=1)"
    command = f"import sys; from ieat_jax.preparation.demo.corpus import build_demo; {build}"
    subprocess.run([sys.executable, "-c", command, str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def demo_lines(tiny_demo):
    """File name -> JSON objects of the tiny corpus."""
    return {path.name: [json.loads(line) for line in path.open(encoding="utf-8")] for path in tiny_demo.glob("*.jsonl")}
