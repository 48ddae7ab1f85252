"""Replies that the model ended by itself, within the limit."""

from typing import Any

from ieat_jax.evaluation.measure import Measure, Row
from ieat_jax.evaluation.predict import Predictions
from ieat_jax.evaluation.statistics import proportion


def response_ended(predictions: Predictions) -> dict[str, Any]:
    """Share of replies that were not cut at their limit."""
    return {"response_ended": proportion([answer.reply.response_ended for answer in predictions.answers])}


MEASURE = Measure(
    name="response_ended",
    order=50,
    measure=response_ended,
    rows=(Row("Reply ended by the model", ("response_ended", "value"), "up", "share of replies within the limit"),),
)
