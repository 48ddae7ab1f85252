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
from collections import Counter
from typing import get_args

from ieat_jax.evaluation.measure import Chart, Measure, MeasureError, Row, line_of
from ieat_jax.evaluation.predict import Need


@functools.cache
def all_measures() -> tuple[Measure, ...]:
    """`MEASURE` of every file in this folder, by their order.

    Raises:
        MeasureError: a file that cannot be imported or has no such measure, or two of one name.
    """
    measures = [_measure(found.name) for found in pkgutil.iter_modules(__path__)]
    for name, count in Counter(measure.name for measure in measures).items():
        if count > 1:
            raise MeasureError(f"{__path__[0]}: {count} measures have the name {name!r}; rename one")
    return tuple(sorted(measures, key=lambda measure: measure.order))


def _measure(name: str) -> Measure:
    module = f"{__name__}.{name}"
    file = f"{__path__[0]}/{name}.py"
    mend = "mend the file, or take it out of the folder"
    try:
        measure = getattr(importlib.import_module(module), "MEASURE", None)
    except (Exception, SystemExit) as error:
        raise MeasureError(f"{file}{line_of(file, error)}: {type(error).__name__}: {error}; {mend}") from error
    if not isinstance(measure, Measure):
        raise MeasureError(f"{file}: has no MEASURE = Measure(...); {mend}")
    if wrong := [field for field, fits in _fits(measure).items() if not fits]:
        raise MeasureError(f"{file}: {', '.join(wrong)} of its MEASURE cannot be used (evaluation/measure.py); {mend}")
    return measure


def _fits(measure: Measure) -> dict[str, bool]:
    """Whether each field is what it has to be: a comma that was forgotten makes a Row of a tuple of one."""
    return {
        "name": isinstance(measure.name, str) and measure.name != "",
        "order": isinstance(measure.order, int | float),
        "measure": callable(measure.measure),
        "rows": isinstance(measure.rows, tuple) and all(isinstance(row, Row) for row in measure.rows),
        "needs": isinstance(measure.needs, frozenset) and measure.needs <= set(get_args(Need)),
        "uses": isinstance(measure.uses, frozenset) and measure.uses <= set(get_args(Need)),
        "method": isinstance(measure.method, str),
        "chart": measure.chart is None or isinstance(measure.chart, Chart),
    }
