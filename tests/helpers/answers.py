"""Items and replies made by hand, for the tests of measures."""

import numpy as np

from ieat_jax.evaluation.items import Item, understand
from ieat_jax.evaluation.measures import all_measures
from ieat_jax.evaluation.predict import Predictions
from ieat_jax.evaluation.score import measure_all
from ieat_jax.inference.generator import Reply
from ieat_jax.inference.prompt import UserTurn


def reply(think, text="I'm so sorry. Take your time.", *, closed=True, ended=True):
    return Reply(think, text, None, None, closed, ended, False, ())


def item(emotion, *, words=-1, cause="", style=None, scores=True, audio=None, language="en"):
    turn = UserTurn(np.ones(2000, np.float32) if audio is None else audio)
    return Item("d", 1, (turn,), emotion, words, scores, cause, style, "I lost my keys.", "Oh no.", language)


def measured(items, replies, made=("thinking",), **fields):
    """The figures of all measures."""
    predictions = Predictions(items, [understand(each) for each in replies], frozenset(made), **fields)
    return measure_all(predictions, all_measures())
