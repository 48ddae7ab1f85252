"""Unit accuracy: how often the model's best unit is the true one, when it is fed the true units before."""

from typing import Any

import numpy as np

from ieat_jax.evaluation.measure import Measure, Row
from ieat_jax.evaluation.predict import Predictions


def units(predictions: Predictions) -> dict[str, Any]:
    """Accuracy over all units that stand for sound; the end of speech is not counted.

    `unigram` is the accuracy of always answering the commonest of the scored units: the best constant answer.
    """
    best, true = predictions.units
    if not len(true):
        return {}
    return {
        "units": {
            "accuracy": float((best == true).mean()),
            "unigram": float(np.bincount(true).max() / len(true)),
            "n": len(true),
        }
    }


MEASURE = Measure(
    name="units",
    order=60,
    measure=units,
    needs=frozenset({"units"}),
    rows=(
        Row(
            "Unit accuracy, teacher-forced",
            ("units", "accuracy"),
            "up",
            "always the commonest unit: {units.unigram:.3f}",
        ),
    ),
    method=(
        "Unit accuracy feeds the true units and counts the true next unit; its baseline always answers the commonest "
        "unit."
    ),
)
