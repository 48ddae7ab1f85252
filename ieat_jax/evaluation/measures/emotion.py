"""Emotion: average recall of the emotion that the thinking names, and the same with silence or another clip's audio."""

from typing import Any

import numpy as np

from ieat_jax.data.labels import EMOTIONS
from ieat_jax.evaluation.measure import Chart, Measure, Row
from ieat_jax.evaluation.predict import Predictions
from ieat_jax.evaluation.statistics import confusion, uar


def emotion(predictions: Predictions) -> dict[str, Any]:
    """Unweighted average recall (UAR) over the items that score emotion, and under each control."""
    scored = [index for index, item in enumerate(predictions.items) if item.scores_emotion]
    if not scored:
        return {}
    gold = [predictions.items[index].emotion for index in scored]
    predicted = [predictions.answers[index].emotion for index in scored]
    figures: dict[str, Any] = {
        "emotion": uar(gold, predicted, len(EMOTIONS), seed=predictions.seed).as_dict()
        | {
            "accuracy": float(np.mean(np.equal(gold, predicted))),
            "classes": list(EMOTIONS),
            "confusion": confusion(gold, predicted, len(EMOTIONS)).tolist(),
        }
    }
    controls = {}
    for name, answers in predictions.controls.items():
        gold = [predictions.items[index].emotion for index in answers]
        predicted = [answer.emotion for answer in answers.values()]
        controls[name] = uar(gold, predicted, len(EMOTIONS), seed=predictions.seed).as_dict()
    return figures | ({"controls": controls} if controls else {})


MEASURE = Measure(
    name="emotion",
    order=10,
    measure=emotion,
    needs=frozenset({"thinking"}),
    uses=frozenset({"controls"}),
    rows=(
        Row("Emotion UAR, read from the thinking", ("emotion", "uar"), "up", "chance {emotion.chance:.2f}"),
        Row("- with another clip's audio", ("controls", "shuffled", "uar"), "chance", "control"),
        Row("- with silence", ("controls", "silence", "uar"), "chance", "control"),
    ),
    method=(
        "The emotion is read from the sentence in the thinking that states it; a thinking that states none, or is not "
        "closed, counts as wrong. Chance is one over the number of classes present. Controls run the same model with "
        "silence, and with the audio of another clip (each true class is given clips of all classes evenly), in the "
        "place of the user's voice: a model that listens falls to chance."
    ),
    chart=Chart(
        heading="Emotion in the thinking",
        caption="Unweighted average recall; dashed: chance; bars: bootstrap 95 % interval",
        bars=(
            ("true audio", ("emotion", "uar")),
            ("another clip's audio", ("controls", "shuffled", "uar")),
            ("silence", ("controls", "silence", "uar")),
        ),
        chance=("emotion", "chance"),
        matrix=("emotion",),
        matrix_caption="rows: true emotion of the voice; columns: emotion in the thinking",
    ),
)
