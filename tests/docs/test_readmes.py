"""Every README: its commands can be given, its code runs, its links lead somewhere, its lists are whole."""

import functools
import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

import jax
import pytest
from helpers import tiny_run
from helpers.commands import ROOT, lines_of, parse

import ieat_jax
from ieat_jax import prepare
from ieat_jax.audio.files import write_wav
from ieat_jax.config.recipes import load_config, typed
from ieat_jax.data.injection import thinking
from ieat_jax.data.records import parse_record, read_records
from ieat_jax.evaluation.measures import all_measures
from ieat_jax.importers import command as importing
from ieat_jax.importers import corpora
from ieat_jax.inference.generator import Generator
from ieat_jax.model.names import named_leaves
from ieat_jax.model.partition import split
from ieat_jax.model.unified import build_model
from ieat_jax.objectives.stages import make_objective

OUTSIDE = {"runs", "build", "dist"}
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"bash", "python", "json", "text", "bibtex"}


def readmes():
    """Path from the repository's root -> text, of every document for readers."""
    found = [path for path in ROOT.rglob("*.md") if path.relative_to(ROOT).parts[0] not in OUTSIDE]
    known = [path for path in found if not path.relative_to(ROOT).parts[0].startswith(".") or ".github" in path.parts]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(known)}


README = readmes()


def blocks(name, language):
    return [text for kind, text in BLOCK.findall(README[name]) if kind == language]


def all_blocks(language):
    return [(name, number, text) for name in README for number, text in enumerate(blocks(name, language))]


@pytest.fixture
def recipes(tmp_path):
    """The recipe of configs/README.md as a file."""
    (recipe,) = blocks("configs/README.md", "python")
    (tmp_path / "mine.py").write_text(recipe, encoding="utf-8")
    return {"configs/mine.py": tmp_path / "mine.py"}


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name, _, text in all_blocks("bash") for line in lines_of(text)]
)
def test_a_command_can_be_given(name, line, recipes):
    parse(line, recipes)


def test_every_block_says_its_language_and_every_readme_has_a_place_here():
    for name, text in README.items():
        assert {kind for kind, _ in BLOCK.findall(text)} <= LANGUAGES, f"{name}: a block without a known language"
        assert text.count("```") == 2 * len(BLOCK.findall(text)), f"{name}: a block is not closed"
        assert text.startswith("# "), f"{name} has no title"
    for name, _, text in all_blocks("text"):
        assert not re.search(r"python -m|^bash |^pip ", text, re.MULTILINE), f"{name}: commands stand in blocks of bash"
    assert {"README.md", "ieat_jax/README.md", "ieat_jax/data/README.md", "configs/README.md", "launch/README.md",
            "tests/README.md", ".github/CONTRIBUTING.md"} <= set(README)  # fmt: skip


@pytest.mark.parametrize("name", README)
def test_commands_in_a_fresh_shell(name):
    """The first block that needs `python` or `pip` stands after the line that makes them be there."""
    lines = [line for text in blocks(name, "bash") for line in lines_of(text)]
    words = [re.sub(r"^([A-Z_]+=\S+ )+", "", line).split()[0] for line in lines]
    needs = [at for at, word in enumerate(words) if word in ("python", "pip", "tensorboard")]
    if needs:
        assert "source .venv/bin/activate" in [re.sub(r"\s+#.*", "", line) for line in lines[: needs[0]]]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


@pytest.mark.parametrize("name", README)
def test_links_lead_somewhere(name):
    text = BLOCK.sub("", README[name])
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", text)
    for target in targets:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / name).parent / path if path else ROOT / name
        assert place.resolve().is_relative_to(ROOT), f"{name}: {target} leads out of the repository"
        assert place.exists(), f"{name}: {target} is not there"
        assert not anchor or anchor in {
            re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
        }, f"{name}: {target} names no heading"


# Of a run, of a corpus, of an export, of the reader; what must not be.
THEIRS = {
    "quarantine.jsonl",
    "answers.jsonl",
    "handover.json",
    "metrics.jsonl",
    "config.json",
    "card.json",
    "index/",
    "tensorboard/",
    "configs/mine.py",
}
THEIRS |= {"data/", "weights/MODEL/", "utils/"}
THEIRS |= {"manifest.json", "preprocessor_config.json", "run.py", "llm/", "whisper/", "codec/"}  # of an export


@pytest.mark.parametrize("name", README)
def test_files_that_are_named_are_there(name):
    """Paths in back quotes, from the README's folder or from the root; those of a run or of a reader are not ours."""
    quoted = re.findall(r"`([\w./-]+(?:/|\.(?:py|sh|md|toml|ipynb|jsonl?)))`", BLOCK.sub("", README[name]))
    for path in quoted:
        if path in THEIRS or "NAME" in path:
            continue
        here, folder = (ROOT / name).parent / path, (ROOT / name).parent
        inside = list(folder.rglob(path)) if "/" not in path else []
        assert here.exists() or (ROOT / path).exists() or inside, f"{name}: {path} is not there"


@pytest.mark.parametrize(("name", "number", "text"), all_blocks("json"))
def test_a_record_is_one(name, number, text):
    record = parse_record(json.loads(text))
    assert record.turns[0].cause.text == "lost my keys"
    assert not record.strange
    assert not any(turn.strange for turn in record.turns)


def test_the_record_thinks_as_the_readme_says():
    (text,) = blocks("README.md", "json")
    said = re.search(r"Injection makes of it: `(.*?)`", README["README.md"], re.DOTALL)[1].replace("\n", " ")

    picks = iter([0, 1, 1, 0])
    sentences = thinking(parse_record(json.loads(text)), 0, lambda *_: next(picks))
    assert " ".join(sentences.values()) == said
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize("stage", ["align", "joint"])
def test_the_recipe_is_whole(stage, recipes):
    config = load_config(f"{recipes['configs/mine.py']}:{stage}")
    make_objective(typed(config))
    abstract = jax.eval_shape(functools.partial(build_model, typed(config).model), jax.random.key(0))
    trainable, frozen = split(abstract, config.optimizer.rules)
    assert {name.split(".")[0] for name in frozen} == {"listen", "think"} | ({"write"} if stage == "align" else set())
    loaded = r"(think|write)\.(?!.*lora_).*|listen\.encoder\..*"
    if stage == "joint":  # what the earlier stage had
        loaded += r"|listen\..*|emotion\..*"
    known = [loaded, *config.init.allow_new]
    assert [name for name in named_leaves(abstract) if not any(re.fullmatch(p, name) for p in known)] == []
    assert trainable


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder with a run, a recording and the records of the data README in it, as working directory."""
    write_wav(tmp_path / "hello.wav", tiny_run.voice(0))
    (text,) = blocks("ieat_jax/data/README.md", "json")
    (tmp_path / "data/mine").mkdir(parents=True)
    (tmp_path / "data/mine/train.jsonl").write_text(json.dumps(json.loads(text)) + "\n", encoding="utf-8")
    tiny_run.save_run(tmp_path / "runs/demo/joint")
    monkeypatch.setattr(Generator, "from_run", functools.partial(Generator.from_run, limits=tiny_run.LIMITS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Blocks of Python that run as they stand, one after the other in one namespace, in the folder `reader`.
RUN = ("README.md", "ieat_jax/README.md", "ieat_jax/data/README.md")
# Blocks that a test of their own is for.
TESTED = ("configs/README.md",)


@pytest.mark.parametrize("name", RUN)
def test_code_runs(name, reader):
    run_blocks(name)


def run_blocks(name):
    """What the blocks of Python leave behind."""
    namespace = {"__name__": "__main__"}
    for number, text in enumerate(blocks(name, "python")):
        exec(compile(text, f"{name}, block {number}", "exec"), namespace)
    return namespace


def test_what_the_package_readme_adds_can_be_used(reader):
    added = run_blocks("ieat_jax/README.md")
    assert added["MEASURE"].rows[0].path[0] == added["MEASURE"].name
    assert added["MEASURE"].name not in {measure.name for measure in all_measures()}
    assert [turn.response for turn in added["second"].history][-1] == added["second"].text


def test_the_corpus_that_the_package_readme_adds_is_imported(tmp_path, monkeypatch):
    """Its block as a file in `importers/corpora/`, by the command line."""
    (text,) = [text for text in blocks("ieat_jax/README.md", "python") if "CORPUS = " in text]
    for folder in ("corpora", "mine"):
        (tmp_path / folder).mkdir()
    (tmp_path / "corpora/mine.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(corpora, "__path__", [*corpora.__path__, str(tmp_path / "corpora")])
    monkeypatch.setattr(importing, "all_corpora", importing.all_corpora.__wrapped__)
    monkeypatch.setitem(sys.modules, f"{corpora.__name__}.mine", None)  # put back afterwards
    del sys.modules[f"{corpora.__name__}.mine"]
    write_wav(tmp_path / "mine/anna_12_sad.wav", tiny_run.voice(1))
    (tmp_path / "mine/anna_12_sad.txt").write_text("I lost my keys.\nOh no.\n", encoding="utf-8")
    assert prepare.main(["import", "mine", str(tmp_path / "mine"), "--out", str(tmp_path / "out/all.jsonl")]) == 0
    (record,) = read_records(tmp_path / "out/all.jsonl")
    (turn,) = record.turns
    assert (record.speaker, turn.emotion, turn.audio) == ("anna", "sad", "anna_12_sad.wav")
    assert (turn.text, turn.response_text) == ("I lost my keys.", "Oh no.")
    assert not record.strange
    assert not turn.strange
    assert record.unread == ()


def test_no_code_is_without_a_test():
    assert {name for name, _, _ in all_blocks("python")} == set(RUN) | set(TESTED)


def test_the_list_of_files_is_whole():
    """`ieat_jax/README.md` has a line for every file of the package and for no other."""
    said = {}
    folder = ""
    (tree,) = blocks("ieat_jax/README.md", "text")
    for line in tree.splitlines():
        name, _, words = line.strip().partition("  ")
        if name.endswith("/"):
            folder = "" if not line.startswith(" ") and name == "./" else name
        else:
            said[folder + name] = words.strip()
    package = ROOT / "ieat_jax"
    files = [*package.rglob("*.py"), *package.rglob("*.html")]
    there = {str(path.relative_to(package)) for path in files if path.name != "__init__.py"}
    assert sorted(set(said) - there) == [], "files that are not there"
    assert sorted(there - set(said)) == [], "files without a line"
    assert all(said.values()), "a file without a word about it"


def test_the_table_of_corpora_is_that_of_the_command():
    rows = re.findall(
        r"^\| `(\w+)` \| (.*) \|$", README["ieat_jax/data/README.md"].partition("## Corpora")[2], re.MULTILINE
    )
    said = {name: (cells.split(" | ")[0], *cells.split(" | ")[2:]) for name, cells in rows}
    known = importing.all_corpora().items()
    assert said == {name: (corpus.title, corpus.licence, corpus.source) for name, corpus in known}


def test_tables_say_what_pyproject_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {"Python": project["requires-python"]}
    extras = project["optional-dependencies"]
    for each in [*project["dependencies"], *extras["test"]]:
        package, version = re.fullmatch(r"([\w-]+(?:\[[\w,]+\])?)(.*)", each).groups()
        wanted[package] = version
    table = re.search(r"^\| package \|.*?(?=\n\n)", README["launch/README.md"], re.MULTILINE | re.DOTALL)[0]
    rows = [[part.strip(" `") for part in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) > 5
    for package, allowed, _ in rows:
        assert wanted[package.removesuffix(" (tests)")] == allowed, package


def test_pods_of_the_readme_are_those_of_the_compile_table():
    for line in re.findall(r"^\| `(v5e-256|v5p-128|v6e-256|8xH100)` \|.*$", README["README.md"], re.MULTILINE):
        topology = {"v5e-256": "v5e:16x16", "v5p-128": "v5p:4x4x4", "v6e-256": "v6e:16x16", "8xH100": "h100:8"}[line]
        peaks = [
            re.search(rf"^\| `goat_8b` \| {stage} \| {topology} \| ([\d.]+) of (\d+)", README["launch/README.md"], re.M)
            for stage in ("align", "joint")
        ]
        said = re.search(rf"^\| `{line}` \| \d+ \| (.*?) \|", README["README.md"], re.MULTILINE)[1]
        assert said == f"{peaks[0][1]} / {peaks[1][1]} of {peaks[0][2]}"


def test_citations_are_bibtex():
    (text,) = blocks("README.md", "bibtex")
    entries = re.findall(r"^@(\w+)\{(\w+),", text, re.MULTILINE)
    assert [kind for kind, _ in entries] == ["misc", "software"]
    assert text.count("{") == text.count("}")
    assert f"version = {{{ieat_jax.__version__}}}" in text


def test_the_figure_is_what_its_script_draws():
    spec = importlib.util.spec_from_file_location("figure", ROOT / "notebooks/figures/draw.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    for theme in draw.THEMES:
        assert Path(ROOT / f"notebooks/figures/model-{theme}.svg").read_text(encoding="utf-8") == draw.draw(theme)


def test_the_table_of_helpers_is_whole():
    said = re.findall(r"`(\w+\.py)`", README["tests/README.md"].partition("## Helpers")[2].partition("## ")[0])
    assert sorted(said) == sorted(path.name for path in (ROOT / "tests/helpers").glob("*.py"))
    scripts = README["launch/README.md"].partition("| script |")[2].partition("\n\n")[0]
    for path in (ROOT / "launch").glob("*.sh"):
        assert f"`{path.name}`" in scripts, f"launch/README.md says nothing of {path.name}"
