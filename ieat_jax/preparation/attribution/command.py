"""`prepare attribute`: emotion, intensity, cause, style and thinking where nobody annotated them, as an LLM says."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ieat_jax.cli import add_output, path_argument
from ieat_jax.data.quarantine import Quarantine, QuarantineError
from ieat_jax.data.records import Record, parse_record, read_records, to_json, write_records
from ieat_jax.errors import UserError
from ieat_jax.preparation.asking import command as asking
from ieat_jax.preparation.attribution.answer import Wrong, read_answer
from ieat_jax.preparation.attribution.question import FIELDS, lacking, language_of, question, read_prompts

if TYPE_CHECKING:
    from ieat_jax.preparation.asking.recorded import Recorded

SPANS_FILE = "spans.json"
_AGAIN = {
    "en": "That cannot be used: {}. Answer with the whole JSON object again, and nothing else.",
    "zh": "这个回答不能用：{}。请重新给出完整的 JSON 对象，不要写别的内容。",
}


@dataclasses.dataclass
class Open:
    """A turn that lacks something, and what has been said of it."""

    record: Record
    index: int
    fields: tuple[str, ...]
    text: str  # of the question
    good: dict[str, Any] = dataclasses.field(default_factory=dict)
    bad: dict[str, Wrong] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.record.dialogue_id}: turn {self.record.turns[self.index].turn_id}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare attribute`."""
    parser.add_argument("records", nargs="+", type=path_argument, metavar="RECORDS", help="JSONL of dialogues")
    add_output(parser, "folder for files of the same names")
    asking.add_arguments(parser)
    parser.add_argument(
        "--what", nargs="+", choices=FIELDS, default=FIELDS[:-1], help="what is asked for (default: all but think)"
    )
    parser.add_argument(
        "--prompts", type=path_argument, help="folder with your own en.txt or zh.txt; ours lie in prompts"
    )
    parser.add_argument("--max-tokens", type=int, default=400, help="longest answer (default: 400)")
    parser.add_argument(
        "--compare", action="store_true", help="write no records: ask for causes that people quoted, and print span F1"
    )
    parser.add_argument(
        "--max-bad-share",
        type=float,
        default=0.05,
        help="share of what is asked that may be left out, as of records that may be bad (default: 0.05)",
    )


def run(arguments: argparse.Namespace, targets: dict[Path, Path], quarantine_file: str) -> int:
    """`prepare attribute`; `targets`: where each file's records go.

    Raises:
        AskError: nothing can be asked any more; what was answered is kept.
        PromptError: a prompt that cannot be used.
        QuarantineError: more is left out than accepted.
    """
    started = time.perf_counter()
    prompts = read_prompts(arguments.prompts)
    bad_records = Quarantine(arguments.max_bad_share, arguments.out / "bad_records.jsonl")
    read = {path: read_records(path, quarantine=bad_records) for path in arguments.records}
    bad_records.expect(sum(map(len, read.values())))
    bad_records.check()
    records = [record for found in read.values() for record in found]
    turns, wordless = open_turns(records, arguments.what, prompts, causes_again=arguments.compare)
    print(_plan(turns, wordless, sum(len(record.turns) for record in records)))
    if not turns and arguments.compare:
        raise UserError("--compare: no turn has a cause with quotes; RECCON's have (`prepare import reccon`)")
    llm = asking.open_llm(arguments, "", arguments.max_tokens)
    print(llm.forecast([_dialogue(turn) for turn in turns], arguments.price) + "; a few are asked twice")
    if arguments.dry_run:
        return 0
    left_out = Quarantine(arguments.max_bad_share, arguments.out / quarantine_file)
    try:
        twice = ask(turns, llm)
    finally:
        llm.close()
    print(f"{llm.account(arguments.price)}, {twice} turns twice; {time.perf_counter() - started:.0f} s")
    report(turns, left_out)
    _check(left_out, llm)
    if arguments.compare:
        return _compare(turns, arguments.out / SPANS_FILE, llm.model)
    values = iter(written(records, turns, f"model:{llm.model}"))
    for path, found in read.items():
        print(f"wrote {targets[path]}: {write_records(targets[path], [next(values) for _ in found])} dialogues")
    for kept, what in ((left_out, "answers"), (bad_records, "records")):
        if kept:
            print(f"left out {len(kept)} of {kept.total} {what}; see {kept.path}")
    return 0


def open_turns(
    records: Sequence[Record], wanted: Sequence[str], prompts: dict[str, str], *, causes_again: bool = False
) -> tuple[list[Open], int]:
    """(turns that lack something, how many more do and have no words to judge by)."""
    found, wordless = [], 0
    for record in records:
        for index, turn in enumerate(record.turns):
            fields = lacking(record, index, wanted, causes_again=causes_again)
            if fields and not turn.text.strip():
                wordless += 1
            elif fields:
                language = language_of(record)
                text = question(prompts[language], record, index, fields, language)
                found.append(Open(record, index, fields, text))
    return found, wordless


def ask(turns: Sequence[Open], llm: Recorded) -> int:
    """Fill in what is said of every turn; what is wrong with an answer is told, and asked again, once.

    Returns:
        How many turns were asked again.
    """
    again = []
    for turn, answer in zip(turns, llm.answers([_dialogue(turn) for turn in turns], part=(1, 2)), strict=True):
        if isinstance(answer, UserError):
            turn.bad = dict.fromkeys(turn.fields, Wrong("not_answered", str(answer)))
            continue
        turn.good, turn.bad = read_answer(answer.text, turn.record, turn.index, turn.fields)
        if turn.bad:
            again.append((turn, answer.text))
    second = llm.answers([_second(turn, text) for turn, text in again], part=(2, 2))
    for (turn, _), answer in zip(again, second, strict=True):
        if isinstance(answer, UserError):
            continue
        good, bad = read_answer(answer.text, turn.record, turn.index, turn.fields)
        if len(bad) <= len(turn.bad):  # of one piece: fields of two answers need not agree
            turn.good, turn.bad = good, bad
    return len(again)


def _dialogue(turn: Open) -> tuple[Any, ...]:
    from ieat_jax.inference.prompt import UserTurn

    return (UserTurn(text=turn.text),)


def _second(turn: Open, answer: str) -> tuple[Any, ...]:
    from ieat_jax.inference.prompt import UserTurn

    wrong = "; ".join(dict.fromkeys(problem.message for problem in turn.bad.values()))
    (first,) = _dialogue(turn)
    return first.answered(answer), UserTurn(text=_AGAIN[language_of(turn.record)].format(wrong))


def report(turns: Sequence[Open], left_out: Quarantine) -> None:
    """Say what was said of each field, and note what is left out."""
    for turn in turns:
        left_out.expect(len(turn.fields))
        for field, wrong in turn.bad.items():
            left_out.note(f"{turn.name}: {field}", wrong.code, f"{turn.name}: {field}: {wrong.message}")
    for field in FIELDS:
        asked = [turn for turn in turns if field in turn.fields]
        if not asked:
            continue
        said = Counter(
            str(turn.good[field]) if field in ("emotion", "intensity", "style") else "given"
            for turn in asked
            if turn.good.get(field) is not None
        )
        none = sum(field in turn.good and turn.good[field] is None for turn in asked)
        listed = ", ".join(f"{label} {count}" for label, count in said.most_common())
        codes = Counter(turn.bad[field].code for turn in asked if field in turn.bad)
        wrong_ones = ", ".join(f"{count} x {code}" for code, count in codes.most_common())
        print(
            f"{field}: {len(asked)} asked = {sum(said.values())} given + {none} said to be none + "
            f"{sum(codes.values())} left out"
            + (f" ({wrong_ones})" if codes else "")
            + (f": {listed}" if listed else "")
        )


def written(records: Sequence[Record], turns: Sequence[Open], source: str) -> list[dict[str, Any]]:
    """The JSON objects of records with what was said of their turns; nothing that was there is changed."""
    values = {id(record): to_json(record) for record in records}
    for turn in turns:
        said = {name: value for name, value in turn.good.items() if value is not None}
        if not said:
            continue
        value = values[id(turn.record)]["turns"][turn.index]
        ours = dict(value.get("ieat") or {})
        if "emotion" in said:
            value["emotion"] = said["emotion"]
            ours["emotion"] = {"label": said["emotion"], "source": source}
        if "intensity" in said:
            ours["emotion"] = {**(ours.get("emotion") or {}), "intensity": said["intensity"]}
        if "cause" in said:
            ours["cause"] = {**said["cause"], "source": source}
        if "style" in said:
            ours["response"] = {**(ours.get("response") or {}), "emotion": said["style"]}
        if "think" in said:
            ours["think"] = {"text": said["think"]}
        value["ieat"] = ours
        before = value.get("attributed") or {}
        value["attributed"] = {**before, **dict.fromkeys(said, source)}
    for value in values.values():
        parse_record(value)  # whatever is written can be read
    return [values[id(record)] for record in records]


def _check(left_out: Quarantine, llm: Recorded) -> None:
    if len(left_out) > left_out.max_share * left_out.total:
        first = next(message for _, message in left_out.notes.values())
        raise QuarantineError(
            f"{len(left_out)} of {left_out.total} fields that were asked for are left out, more than --max-bad-share "
            f"{left_out.max_share:g}. First: {first}; all are in {left_out.path}. Another model or question may do "
            f"better; answers are kept in {llm.path}"
        )


def _plan(turns: Sequence[Open], wordless: int, total: int) -> str:
    counts = Counter(field for turn in turns for field in turn.fields)
    listed = ", ".join(f"{counts[field]} {field}" for field in FIELDS if counts[field]) or "nothing"
    unheard = f"; {wordless} more have no words to judge by" if wordless else ""
    return f"{len(turns)} of {total} turns lack what is asked for: {listed}{unheard}"


def _compare(turns: Sequence[Open], path: Path, model: str) -> int:
    from ieat_jax.preparation.attribution.spans import compared

    said = [
        (
            turn.record,
            turn.index,
            [(one["turn_id"], one["quote"]) for one in (turn.good.get("cause") or {}).get("evidence", ())],
        )
        for turn in turns
    ]
    figures = compared(said)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"model": model, **figures}, indent=1) + "\n", encoding="utf-8")
    print(
        f"causes of {figures['turns']:.0f} turns: span F1 {figures['f1']:.3f} [{figures['f1_low']:.3f}, "
        f"{figures['f1_high']:.3f}], the same words {figures['exact']:.3f}, a quote given {figures['said']:.3f}; the "
        f"user's whole turn as the quote has F1 {figures['f1_whole_turn']:.3f}"
    )
    print(f"wrote {path}")
    return 0
