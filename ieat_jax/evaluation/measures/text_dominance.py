"""Text dominance: how often the thinking names the emotion of the words where the voice has another."""

from typing import Any

from ieat_jax.evaluation.measure import Measure, Row
from ieat_jax.evaluation.predict import Predictions
from ieat_jax.evaluation.statistics import proportion


def text_dominance(predictions: Predictions) -> dict[str, Any]:
    """Share of answers that follow the words, over the items whose words and voice are annotated differently."""
    followed = [
        answer.emotion == item.words_emotion
        for item, answer in predictions.pairs()
        if item.scores_emotion and item.words_emotion not in (-1, item.emotion)
    ]
    return {"text_dominance": proportion(followed)} if followed else {}


MEASURE = Measure(
    name="text_dominance",
    order=80,
    measure=text_dominance,
    needs=frozenset({"thinking"}),
    rows=(
        Row(
            "Text dominance",
            ("text_dominance", "value"),
            "down",
            "answers that follow the words, not the voice",
        ),
    ),
)
