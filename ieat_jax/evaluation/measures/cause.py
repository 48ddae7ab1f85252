"""Cause recall: how much of the annotated cause the thinking names."""

from typing import Any

import numpy as np

from ieat_jax.evaluation.measure import Measure, Row
from ieat_jax.evaluation.predict import Predictions
from ieat_jax.evaluation.words import content_recall


def cause(predictions: Predictions) -> dict[str, Any]:
    """Mean share of the cause's content words that stand in the thinking's cause, else anywhere in the thinking."""
    recalls = [
        content_recall(item.cause, answer.cause or answer.reply.think_text)
        for item, answer in predictions.pairs()
        if item.cause
    ]
    recalls = [recall for recall in recalls if recall is not None]
    return {"cause": {"value": float(np.mean(recalls)), "n": len(recalls)}} if recalls else {}


MEASURE = Measure(
    name="cause",
    order=30,
    measure=cause,
    needs=frozenset({"thinking"}),
    rows=(Row("Cause recall in the thinking", ("cause", "value"), "up", "content words of the annotated cause"),),
    method="Cause recall is the share of content words of the annotated cause that the thinking names.",
)
