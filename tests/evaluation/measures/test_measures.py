import pkgutil
import sys
import textwrap
import types

import pytest
from helpers.answers import item, measured, reply

from ieat_jax.data.labels import EMOTIONS
from ieat_jax.evaluation import measures
from ieat_jax.evaluation.items import understand
from ieat_jax.evaluation.measures import all_measures
from ieat_jax.evaluation.predict import Predictions
from ieat_jax.evaluation.score import measure_all

HAPPY, SAD = (EMOTIONS.index(name) for name in ("happy", "sad"))


def test_text_metrics_of_known_replies():
    sad, happy = "The user feels sad.", "The user feels happy."
    items = [
        item(SAD, cause="lost my keys", style="comfort"),
        item(SAD, words=HAPPY, style="happy"),
        item(HAPPY, words=HAPPY),
        item(HAPPY, scores=False),
    ]
    replies = [
        reply(sad + " This is because I lost a bag."),
        reply(happy),
        reply(sad, closed=False),
        reply("", ended=False),
    ]
    metrics = measured(items, replies)
    assert metrics["emotion"]["uar"] == pytest.approx((1 / 2 + 0) / 2)
    assert metrics["emotion"]["accuracy"] == pytest.approx(1 / 3)
    assert metrics["emotion"]["chance"] == pytest.approx(1 / 2)
    assert metrics["emotion"]["classes"] == list(EMOTIONS)
    counts = metrics["emotion"]["confusion"]
    assert (counts[SAD][SAD], counts[SAD][HAPPY], counts[HAPPY][len(EMOTIONS)]) == (1, 1, 1)
    assert metrics["style"]["value"] == pytest.approx(1 / 2)
    assert metrics["cause"] == {"value": pytest.approx(1 / 2), "n": 1}
    assert (metrics["text_dominance"]["value"], metrics["text_dominance"]["n"]) == (1.0, 1)
    assert metrics["think_format"]["value"] == pytest.approx(1 / 2)
    assert metrics["response_ended"]["value"] == pytest.approx(3 / 4)
    without = measured(items, replies, made=())
    assert set(without) == {"response_ended", "style"}
    unstyled = measured([item(SAD)], [reply(sad)])
    assert not {"style", "cause", "text_dominance"} & set(unstyled)


def test_the_table_has_its_rows_in_this_order():
    assert [row.title for measure in all_measures() for row in measure.rows] == [
        "Emotion UAR, read from the thinking",
        "- with another clip's audio",
        "- with silence",
        "Well-formed thinking",
        "- on the clips that score emotion",
        "Cause recall in the thinking",
        "Response style accuracy",
        "Reply ended by the model",
        "Unit accuracy, teacher-forced",
        "Word error rate of the spoken reply",
        "Character error rate of the spoken reply",
        "Text dominance",
    ]


def test_every_measure_has_a_name_and_a_place_of_its_own():
    measures = all_measures()
    assert len({measure.name for measure in measures}) == len({measure.order for measure in measures}) == len(measures)
    assert all(row.better in ("up", "down", "chance") for measure in measures for row in measure.rows)


def test_the_example_of_a_measure_is_one(monkeypatch):
    """The file in the docstring, added to the folder, is all that a new measure takes."""
    lines = measures.__doc__.split("\n")
    code = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line))
    example = types.ModuleType("asks_back")
    exec(code, example.__dict__)
    found = pkgutil.iter_modules(measures.__path__)
    names = [*found, pkgutil.ModuleInfo(None, "asks_back", False)]
    monkeypatch.setattr(measures.pkgutil, "iter_modules", lambda path: names)
    monkeypatch.setitem(sys.modules, "ieat_jax.evaluation.measures.asks_back", example)
    every = all_measures.__wrapped__()
    assert [measure.order for measure in every] == sorted(measure.order for measure in every)
    predictions = Predictions([item(SAD)] * 2, [understand(reply("", text)) for text in ("Why?", "Oh.")])
    assert measure_all(predictions, every)["asks_back"]["value"] == 0.5
