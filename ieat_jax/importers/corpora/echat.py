"""EChat-200K: what a user says with age, gender, emotion or other sounds to be heard, and an empathetic reply.

Lists of JSON lines as OSUM-EChat reads them: `wav` (the user), `txt` (the reply), `extra` with `question` (the user's
words), `think_str`, labels such as <HAPPY>, `a_wav_path` (the spoken reply, as a path of its makers' machine) and
`speech_token`, which names no codec and is kept beside the record. Sound is found by name where paths do not fit.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ieat_jax.importers.corpus import Corpus, CorpusError, Found, Place, Refusal, Refused, split_named, utterance
from ieat_jax.importers.tables import rows_of


def find(place: Place) -> Iterator[Found | Refused]:
    """What becomes of every line.

    Raises:
        CorpusError: no list is there, or an option that is none.
    """
    if place.options["think"] not in ("keep", "use"):
        raise CorpusError(f"--option think={place.options['think']}: keep or use")
    names: dict[str, list[str]] = {}
    for path in place.sounds():
        names.setdefault(path.rpartition("/")[2], []).append(path)
    silent: Counter[str] = Counter()
    for path in place.named(r"(?!.*quarantine\.jsonl).*\.(?:jsonl|list)(?:\.gz)?", what="a list (.jsonl, data.list)"):
        split = next((found for word in path.replace(".", "/").split("/") if (found := split_named(word))), "train")
        for number, value in rows_of(place.folder / path):
            line = f"{path}:{number}"
            place.expect("lines", [line])
            if not isinstance(value, dict):
                yield Refused((line,), "not_a_record", str(value))
                continue
            try:
                yield Found(_record(place, path, value, names, silent), (line,), split)
            except Refusal as refusal:
                yield Refused((line,), refusal.code, f"{line}: {refusal.message}")
    if silent:
        place.notes.append(f"{silent['reply']} spoken replies are not there: text alone")


def _record(place: Place, path: str, value: dict, names: dict[str, list[str]], silent: Counter[str]) -> dict[str, Any]:
    key, reply, extra = value.get("key"), value.get("txt"), value.get("extra") or {}
    if not isinstance(key, str) or not isinstance(reply, str) or not isinstance(extra, dict):
        raise Refusal("not_a_record", "needs key and txt (strings), and extra (an object)")
    if not isinstance(wav := value.get("wav"), str):
        raise Refusal("missing", "names no wav")
    label = extra.get("emotion")
    record = utterance(
        f"echat_{key}",
        _sound(place, path, wav, names),
        text=extra.get("question") or "",
        emotion=label if isinstance(label, str) else None,
        source="model:EChat",
        gender=str(extra["gender"]).strip("<>").lower() if extra.get("gender") else None,
        age=str(extra["age"]).strip("<>").lower() if extra.get("age") else None,
    )
    (turn,) = record["turns"]
    turn["response_text"] = reply
    spoken = extra.get("a_wav_path")
    if isinstance(spoken, str) and spoken:
        try:
            turn["response_audio"] = _sound(place, path, spoken, names)
        except Refusal:
            silent["reply"] += 1
    if place.options["think"] == "use" and isinstance(extra.get("think_str"), str):
        turn["ieat"] = {**turn.get("ieat", {}), "think": {"text": extra["think_str"]}}
    return {**record, "echat": {name: item for name, item in value.items() if name not in ("key", "txt")}}


def _sound(place: Place, path: str, named: str, names: dict[str, list[str]]) -> str:
    """A path that a list names: from the list's folder, from ours, or the one file of that name."""
    try:
        return place.audio(named, path.rpartition("/")[0])
    except Refusal:
        alike = names.get(named.rpartition("/")[2], [])
        if len(alike) != 1:
            raise
        return place.audio(alike[0])


CORPUS = Corpus(
    name="echat",
    title="EChat-200K",
    licence="Apache-2.0",
    source="https://huggingface.co/datasets/ASLP-lab/EChat-200K",
    find=find,
    options={"think": ("keep", "its think_str: keep beside the record, or use as thinking")},
)
