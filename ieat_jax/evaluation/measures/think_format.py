"""Well-formed thinking: closed by the model, and holding nothing but sentences that can be read back."""

from typing import Any

from ieat_jax.evaluation.measure import Measure, Row
from ieat_jax.evaluation.predict import Predictions
from ieat_jax.evaluation.statistics import proportion


def think_format(predictions: Predictions) -> dict[str, Any]:
    """Share of readable thinking; also on the items that score emotion, where those are not all."""
    figures = {"think_format": proportion([answer.readable for answer in predictions.answers])}
    scored = [answer.readable for item, answer in predictions.pairs() if item.scores_emotion]
    if scored and len(scored) < len(predictions.items):
        figures["think_format_scored"] = proportion(scored)
    return figures


MEASURE = Measure(
    name="think_format",
    order=20,
    measure=think_format,
    needs=frozenset({"thinking"}),
    rows=(
        Row("Well-formed thinking", ("think_format", "value"), "up", "closed by the model and readable"),
        Row(
            "- on the clips that score emotion",
            ("think_format_scored", "value"),
            "up",
            "the words say nothing there",
        ),
    ),
)
