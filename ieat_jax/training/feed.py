"""What a run reads, step by step, and all that is to be remembered of it when the run goes on later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ieat_jax.config.sections import DataConfig
from ieat_jax.data.quarantine import Quarantine, QuarantineError
from ieat_jax.data.sources.source import Source
from ieat_jax.packing.account import COLUMNS, Account, waste
from ieat_jax.packing.pipeline import Step, make_batches, make_plan
from ieat_jax.packing.plan import Plan, Position
from ieat_jax.packing.readers import Readers
from ieat_jax.packing.rows import Bad, TurnMaker
from ieat_jax.packing.signs import Signs
from ieat_jax.packing.spec import RowSpec


class Feed:
    """The data of a run: its plan, its account, and its bad records, which all processes count as one.

    All processes call `metrics` and `state` at the same steps.
    """

    def __init__(self, data: DataConfig, sources: Sequence[Source], spec: RowSpec, quarantine: Quarantine):
        """Measure the records and plan rows.

        Raises:
            DataError: a source without a usable record.
            QuarantineError: too many records are bad, or too many turns cannot be trained.
        """
        self.data, self.sources, self.spec, self.quarantine = data, sources, spec, quarantine
        self.plan: Plan = make_plan(sources, spec, quarantine)
        self._check_turns()
        self.account = Account()
        self._found: list[Bad] = []  # here, and not yet told to the other processes
        self._known: list[Bad] = []  # everywhere, when sound was read

    def begin(self, first: int, steps: int, stored: Mapping[str, Any] | None) -> Iterator[Step]:
        """The steps after `first`, of `steps`; `stored`: what `state` gave at `first`."""
        if stored is not None:
            self.plan = Plan(self.plan.mixture, self.plan.tables, self.spec, Position(*stored["position"]))
            self.account = Account(stored["account"])
            self._note(Bad(*fields) for fields in stored["bad"])
        signs = Signs()
        batches = make_batches(
            self.sources,
            self.spec,
            self.plan,
            batch_size=self.data.batch_size,
            steps=steps,
            host=jax.process_index(),
            hosts=jax.process_count(),
            signs=signs,
        )
        row, _ = TurnMaker(self.spec).lay_out([])
        size = sum(array.nbytes for array in vars(row).values()) * self.data.batch_size // jax.process_count()
        return Readers(batches, first, self.data, signs, size=size)

    def outlook(self, steps: int) -> list[str]:
        """Sentences on what a run of so many steps will do with its data."""
        first = self.plan.position.row
        rows = len(self.plan.window(self.plan.position.window).rows)
        sums = sum(part for _, part in self.plan.account(first, first + rows))
        dialogues = int(sums[COLUMNS.index("dialogues")]) / rows * self.data.batch_size  # of a step
        epoch = self.plan.mixture.epoch / dialogues
        lines = [f"data: {self.plan.mixture.epoch:,} dialogues an epoch, which takes about {epoch:,.0f} steps"]
        if drawn := self._drawn():
            lines[0] += f"; {drawn}"
        if self.spec.injection.mode == "schedule" and self.spec.chat.thinks:
            faded = self.spec.injection.decay_examples / dialogues
            lines[0] += f"; the thinking fades over about {faded:,.0f} of {steps:,} steps"
        broken, turns = self._turns()
        if broken:
            lines.append(
                f"{broken:,} of {turns:,} turns ({broken / turns:.1%}) cannot be trained: quarantine.jsonl says why"
            )
        wasted = waste(sums, self.spec.shapes)
        return [*lines, wasted] if wasted else lines

    def _turns(self) -> tuple[int, int]:
        """(turns that cannot be trained, all turns) of the records."""
        return sum(int(table.broken.sum()) for table in self.plan.tables), sum(len(t.broken) for t in self.plan.tables)

    def _check_turns(self) -> None:
        """Raise where long dialogues lose more turns than the share of records that may be bad.

        Raises:
            QuarantineError: they do.
        """
        broken, turns = self._turns()
        if broken > self.data.max_bad_share * turns:
            notes = list(self.quarantine.notes.values())
            more = f"; all are in {self.quarantine.path}" if self.quarantine.path is not None else ""
            raise QuarantineError(
                f"{broken} of {turns} turns cannot be trained, more than the accepted share of "
                f"{self.data.max_bad_share:g} (config.data.max_bad_share), though they are of {len(notes)} records "
                f"alone. First: {'; '.join(message for _, message in notes[:3])}{more}. Repair them, or accept a "
                "larger share"
            )

    def _drawn(self) -> str:
        """In words, what an epoch draws where that is not every record once; '' where it is."""
        mixture, said = self.plan.mixture, []
        repeats = mixture.epoch - sum(len(table.usable) for table in self.plan.tables)
        if repeats:
            said.append(f"{repeats:,} of them repeats by config.data.balance")
        if any(often != 1 for often in mixture.often):
            times = (f"{source.key} {often:.3g}" for source, often in zip(self.sources, mixture.often, strict=True))
            said.append(f"drawn by weight, in an epoch each of {', of '.join(times)} times")
        return "; ".join(said)

    def trained(self, step: Step) -> None:
        """Count a step that was trained."""
        self.account.add(step.account)
        self._found += step.bad

    def metrics(self) -> tuple[dict[str, float], list[str]]:
        """Figures since the last call, and a sentence on every epoch that is over.

        Raises:
            QuarantineError: too many records are bad.
        """
        self._exchange()
        self.quarantine.check()
        figures = self.account.metrics(self.spec.shapes)
        drawn = f"; {text}" if (text := self._drawn()) else ""
        over = [sentence + drawn for sentence in self.account.finished(self.spec.shapes)]
        return {**figures, "bad_records": float(len(self.quarantine))}, over

    def state(self, step: int) -> dict[str, Any]:
        """All that a run needs to go on behind `step`, as JSON."""
        self._exchange()
        return {
            "position": list(self.plan.at(step, self.data.batch_size)),
            "account": self.account.state(),
            "bad": [[bad.source, bad.record, bad.code, bad.message] for bad in self._known],
        }

    def _exchange(self) -> None:
        """Tell the other processes what was found here, and note what anybody found, in the order of the processes."""
        found, self._found = self._found, []
        told = [vars(bad) for bad in found]
        for process in _gathered(told):
            bad = [Bad(**fields) for fields in process]
            for each in bad:
                self.account.lose(each.epoch, each.turns)
            self._note(bad)

    def _note(self, found: Any) -> None:
        for bad in found:
            if self.quarantine.note(bad.record, bad.code, bad.message, bad.source):
                self._known.append(bad)


def _gathered(value: Any) -> list[Any]:
    """What every process has, in their order."""
    if jax.process_count() == 1:
        return [value]
    with jax.set_mesh(None):
        content = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = multihost_utils.process_allgather(np.array(len(content)))
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: len(content)] = content
        parts = multihost_utils.process_allgather(padded)
    return [json.loads(part[:size].tobytes()) for part, size in zip(parts, sizes.tolist(), strict=True)]
