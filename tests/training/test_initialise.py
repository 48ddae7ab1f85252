"""First parameters: public weights, copies, and what has to be declared new."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.host_init import host_init
from helpers.tiny_stages import recipe, start, use_mesh, write_corpus

from ieat_jax.config.recipes import typed
from ieat_jax.data.quarantine import Quarantine
from ieat_jax.data.sources.open import open_sources
from ieat_jax.model.landing import Piece
from ieat_jax.model.names import named_leaves
from ieat_jax.model.unified import build_model
from ieat_jax.training.initialise import InitError, initialise


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_device():
    use_mesh(1, 1, 1, 1)
    yield
    use_mesh()


@functools.cache
def leaves(config):
    return {name: np.asarray(leaf) for name, leaf in named_leaves(host_init(build_model, config)).items()}


@pytest.fixture
def weights(monkeypatch):
    """Public weights of the tiny sizes, behind the interface of the real ones."""

    def offer(sizes):
        stored = leaves(sizes)

        def of(*prefixes):
            mine = {n: v for n, v in stored.items() if n.startswith(prefixes) and ".lora_" not in n}
            shapes = {name: value.shape for name, value in mine.items()}
            pieces = [Piece(name, (0,) * value.ndim, value) for name, value in mine.items()]
            return dict(shapes=lambda *_: shapes, pieces=lambda *_: iter(pieces))

        whisper = SimpleNamespace(config=sizes.listen.encoder, **of("listen.encoder."))
        llm = SimpleNamespace(config=sizes.llm, **of("think.", "write."))
        monkeypatch.setattr("ieat_jax.interop.families.whisper.load_whisper", lambda spec: whisper)
        monkeypatch.setattr("ieat_jax.interop.families.llm.load_llm", lambda spec: llm)
        return stored

    return offer


ALLOWED = (r"listen\.(adapter|mix|norm).*", r"emotion\..*", r"speak\.(embed|heads)")


def test_public_weights_are_loaded_and_only_the_declared_rest_is_new(corpus, weights):
    config = recipe(corpus, "joint", init__whisper="w", init__llm="l", init__allow_new=ALLOWED)
    sizes = typed(config).model
    stored = weights(sizes)
    model, handover = initialise(typed(config), None)
    got = named_leaves(model)
    for name in stored:
        if name.startswith(("think.", "write.", "listen.encoder.")):
            np.testing.assert_array_equal(got[name], stored[name])
    np.testing.assert_array_equal(got["speak.layers.mlp.up.kernel"], stored["write.layers.mlp.up.kernel"])
    assert set(handover.loaded.values()) == {"w", "l"}
    assert "speak.embed" in handover.new
    assert "loaded from w: listen.encoder" in handover.summary()
    json.dumps(handover.as_dict())


def test_speak_starts_at_random_where_it_shall(corpus, weights):
    allowed = (*ALLOWED, r"speak\..*")
    config = recipe(
        corpus, "joint", init__whisper="w", init__llm="l", init__allow_new=allowed, init__speak_from_write=False
    )
    stored = weights(typed(config).model)
    model, handover = initialise(typed(config), None)
    name = "speak.layers.mlp.up.kernel"
    assert name in handover.new
    assert not np.array_equal(named_leaves(model)[name], stored["write.layers.mlp.up.kernel"])


def test_a_missing_parameter_that_is_not_declared_is_named(corpus, weights):
    config = recipe(corpus, "align", init__whisper="w", init__llm="l", init__allow_new=ALLOWED)
    weights(typed(recipe(corpus, "joint")).model)
    with pytest.raises(
        InitError, match=r"^add a regex .* LoRA \(\d+\).*: neither in w, l nor declared new \(.*lora_a.* more\)$"
    ):
        initialise(typed(config), None)


def test_speak_in_a_stage_that_does_not_speak_is_told_to_wait(corpus, weights):
    """Not that it may start from random numbers: it would train nothing of it."""
    allowed = (*ALLOWED[:2], r".*lora.*")
    config = recipe(
        corpus, "align", init__whisper="w", init__llm="l", init__allow_new=allowed, model__speak__enabled=True
    )
    weights(typed(config).model)
    wanted = r"^stage align does not speak: set config\.model\.speak\.enabled=False, .*stage joint.*speak\.embed"
    with pytest.raises(InitError, match=wanted) as told:
        initialise(typed(config), None)
    assert "allow_new" not in str(told.value)


@pytest.mark.parametrize("stage", ["write", "align", "joint"])
def test_speak_begins_as_write_unless_an_earlier_stage_trained_it(corpus, stage):
    before = typed(recipe(corpus, stage, model__speak__enabled=True))
    model = host_init(build_model, before.model)
    earlier = SimpleNamespace(path="before", step=1, stage=stage, model=model, config=before)
    after = recipe(corpus, "joint", init__checkpoint="before", init__allow_new=(r"speak\.(embed|heads)",))
    got, handover = initialise(typed(after), None, earlier)
    now, then = named_leaves(got), named_leaves(model)
    for name in ("layers.mlp.up.kernel", "norm.scale"):
        source = f"speak.{name}" if stage == "joint" else f"write.{name}"
        np.testing.assert_array_equal(now[f"speak.{name}"], then[source])
    assert ("speak.heads" in handover.new) == (stage != "joint")
    assert ("speak.heads" in handover.left_over) == (stage != "joint")


def test_what_an_earlier_run_drew_and_never_trained_is_no_weight(corpus, tmp_path):
    """A Whisper encoder of random numbers, which a run of stage `write` has, is refused by name."""
    start(recipe(corpus, "write", train__steps=1), tmp_path / "write", learns=False)
    fields = {"init__checkpoint": str(tmp_path / "write"), "train__steps": 1, "tokenizer__path": ""}
    fields |= {"model__speak__enabled": False, "codec": ""}
    some = (r"emotion\..*", r"listen\.(adapter|mix|norm).*", r".*lora.*", r"(think|write)\..*")
    told = r"write has listen\.encoder \(\d+\) as they were drawn at random, which its stage write did not train"
    with pytest.raises(InitError, match=told):
        start(recipe(corpus, "align", init__allow_new=some, **fields), tmp_path / "align", learns=False)
    start(recipe(corpus, "align", init__allow_new=(".*",), **fields), tmp_path / "align", learns=False)
    handover = json.loads((tmp_path / "align/handover.json").read_text())
    assert all("lora" in name for name in handover["new"])
    assert {name.split(".")[0] for name in handover["still_random"]} >= {"listen", "emotion"}
    again = {**fields, "init__checkpoint": str(tmp_path / "align")}  # which trained the adapter, and not the encoder
    with pytest.raises(InitError, match=r"align has listen\.encoder \(\d+\) as they were"):
        start(recipe(corpus, "align", init__allow_new=some, **again), tmp_path / "more", learns=False)


def test_weights_of_another_size_name_the_field(corpus, weights):
    weights(typed(recipe(corpus, "joint", model__llm__mlp_width=48)).model)
    config = recipe(corpus, "joint", init__llm="l", init__allow_new=(".*",))
    with pytest.raises(InitError, match=r"config\.model\.llm\.mlp_width: 48 there, 32 here"):
        initialise(typed(config), None)


def test_without_any_source_everything_is_new(corpus):
    config = recipe(corpus, "write")
    _, handover = initialise(typed(config), None)
    assert not handover.loaded
    assert "think.embed" in handover.new


def test_audio_paths_start_at_the_root_that_is_given(corpus, tmp_path):
    for fields, root in (({}, corpus), ({"data__sources__train__audio_root": str(tmp_path)}, tmp_path)):
        sources = typed(recipe(corpus, "align", **fields)).data.sources
        assert open_sources(sources, Quarantine(0.0))[0].audio_root == root
