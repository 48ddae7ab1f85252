"""Style: whether a reply begins in the style that is annotated for the reference reply; on the demo corpus alone."""

from typing import Any

from ieat_jax.evaluation.measure import Measure, Row
from ieat_jax.evaluation.predict import Predictions
from ieat_jax.evaluation.statistics import proportion


def style(predictions: Predictions) -> dict[str, Any]:
    """Share of replies in the reference's style, over the items whose style can be read from words."""
    styled = [answer.style == item.style for item, answer in predictions.pairs() if item.style]
    return {"style": proportion(styled)} if styled else {}


MEASURE = Measure(
    name="style",
    order=40,
    measure=style,
    rows=(Row("Response style accuracy", ("style", "value"), "up", "words of the reply match the style"),),
)
