"""The measures, one file each. A file that is added here is measured by `evaluate score` and shown in the report.

To add a measure, write `measures/NAME.py` and nothing else:

    from typing import Any

    from ieat_jax.evaluation.measure import Measure, Row
    from ieat_jax.evaluation.predict import Predictions
    from ieat_jax.evaluation.statistics import proportion


    def asks_back(predictions: Predictions) -> dict[str, Any]:
        asked = [answer.reply.text.rstrip().endswith("?") for answer in predictions.answers]
        return {"asks_back": proportion(asked, seed=predictions.seed)}


    MEASURE = Measure(
        name="asks_back",
        order=55,  # where its rows stand in the table
        measure=asks_back,
        rows=(Row("Replies that ask back", ("asks_back", "value"), "up", "end with a question mark"),),
        method="A reply asks back when it ends with a question mark.",
    )

The function gets `Predictions` (`evaluation/predict.py`): the items with what is annotated, an answer to each
(thinking, reply, what the thinking says), and, where they were made, answers to control audio, sound and transcripts of
spoken replies, and teacher-forced units. It returns figures for metrics.json under keys that no other measure has:
numbers, strings, lists, and NaN where there is no value (written as null); {} where nothing can be measured. `low` and
`high` beside a value are its interval; `proportion` and `uar` of `evaluation/statistics.py` draw them by bootstrap.

What it cannot do without goes into `needs` ("thinking", "controls", "speech", "transcripts", "units": see `Need`),
what it reads if it is there into `uses`: only what some measure asks for is predicted. A `Row` is a line of the table,
a `Chart` a section of the report. Its test goes to tests/evaluation/measures/test_NAME.py.
"""

import functools
import importlib
import pkgutil

from ieat_jax.evaluation.measure import Measure


@functools.cache
def all_measures() -> tuple[Measure, ...]:
    """`MEASURE` of every file in this folder, by their order."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return tuple(sorted((module.MEASURE for module in modules), key=lambda measure: measure.order))
