"""`prepare describe`, through the command: what is told of a voice is what was done to it."""

import collections
import json
import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from ieat_jax import prepare
from ieat_jax.data.injection import parse_thinking, provenance, thinking
from ieat_jax.data.records import read_records
from ieat_jax.errors import UserError
from ieat_jax.preparation.describing import command
from ieat_jax.preparation.describing.measures import measure

RATE = 16_000
GAINS = (0.8, 1.25, 0.9, 1.1, 0.75, 1.3)
SHARED = Path(os.environ.get("IEAT_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def talk(seed=0, *, semitones=0.0, gain=1.0, faster=1.0, seconds=2.0):
    """Syllables of a voice at 130 Hz, about 3.5 a second, each of its own vowel."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds / faster * RATE)) / RATE
    pitch = 130 * 2 ** ((semitones + np.sin(2 * np.pi * 0.6 * time + seed)) / 12)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    syllable = 3.5 * faster * time
    formant = rng.uniform(400, 800, 99)[syllable.astype(int)]
    wave = sum(np.sin(k * phase) * np.exp(-np.square((k * pitch - formant) / 500)) for k in range(1, 20))
    wave = wave * np.sin(np.pi * (syllable % 1)) ** 0.7
    return (gain * 0.05 * wave / np.sqrt(np.mean(wave**2)) + 1e-4 * rng.normal(size=len(time))).astype(np.float32)


def pause(seconds):
    """A second of talk, silence, and another."""
    return np.concatenate([talk(1, seconds=1.0), np.zeros(round(seconds * RATE), np.float32), talk(2, seconds=1.0)])


def record(name, speaker="anna", language="en", ieat=None, **turn):
    fields = {"turn_id": 1, "text": "I lost my keys.", "split_audio_file": f"{name}.wav", "response_text": "Oh no."}
    meta = {"language": language} | ({"speaker": speaker} if speaker else {})
    ours = {} if ieat is None else {"ieat": ieat}
    return {"dialogue_id": name, "turns": [fields | ours | turn], "ieat_meta": meta}


def write(folder, sounds, records):
    for name, sound in sounds.items():
        soundfile.write(folder / f"{name}.wav", sound, RATE, subtype="FLOAT")
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records), encoding="utf-8")
    return path


def described(path, *arguments, code=0):
    """The lines that the command writes."""
    out = path.parent / "told.jsonl"
    assert prepare.main(["describe", "--records", str(path), "--out", str(out), "--workers", "1", *arguments]) == code
    return [json.loads(line) for line in out.open(encoding="utf-8")] if not code else None


def tone_of(line):
    return line["turns"][0].get("ieat", {}).get("tone", "")


def tones(lines):
    return {each["dialogue_id"]: tone_of(each) for each in lines}


def usual(speaker, semitones=0.0):
    """Name -> sound of clips of a speaker that differ a little, as anybody's do."""
    return {f"{speaker}{i}": talk(i, gain=gain, semitones=semitones) for i, gain in enumerate(GAINS)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two speakers an octave apart, five clips of anna changed, and all that may be annotated already."""
    folder = tmp_path_factory.mktemp("describe")
    anna, bert = usual("anna"), usual("bert", semitones=-8)
    changed = {
        "high": talk(7, semitones=4), "low": talk(7, semitones=-4), "loud": talk(7, gain=2), "quiet": talk(7, gain=0.5),
        "fast": talk(7, faster=2), "slow": talk(7, faster=0.6), "halted": pause(1.4), "breath": pause(0.6),
        "all": talk(7, semitones=4, gain=2, faster=2),
    }  # fmt: skip
    zh = {"zh_all": changed["all"], "zh_high": changed["high"], "zh_plain": talk(3), "zh_halted": changed["halted"]}
    names = ("mine", "null", "all_null", "tagged", "listed")
    kept = {name: gain * changed["halted"] for name, gain in zip(names, GAINS, strict=False)}
    records = [record(name) for name in (*anna, *changed)]
    records += [record(name, "bert") for name in bert]
    records += [record(name, language="zh") for name in zh]
    records += [
        record("mine", ieat={"tone": "a warm voice", "custom": 1.50}),
        record("null", ieat={"tone": None, "events": None}),
        record("all_null") | {"turns": [record("all_null")["turns"][0] | {"ieat": None}]},
        record("tagged", text="I [sigh] lost my keys."),
        record("listed", ieat={"events": []}, strange={"ключ": [1e-7, "é", None]}),
        record("silent", split_audio_file=None),
    ]
    path = write(folder, anna | bert | changed | zh | kept, records)
    before = [json.loads(line) for line in path.open(encoding="utf-8")]
    return before, described(path), folder


def heard(corpus, name):
    (found,) = [each["turns"][0].get("ieat") or {} for each in corpus[1] if each["dialogue_id"] == name]
    return found


@pytest.mark.parametrize(
    ("name", "tone"),
    [
        ("high", "a high voice"), ("low", "a low voice"), ("loud", "a loud voice"), ("quiet", "a quiet voice"),
        ("fast", "a fast voice"), ("slow", "a slow voice"), ("all", "a high, loud, fast voice"),
        ("zh_all", "又高又响又快的声音"), ("zh_high", "较高的声音"), ("zh_plain", "平常的声音"),
        *((f"{speaker}{i}", "an ordinary voice") for speaker in ("anna", "bert") for i in range(6)),
    ],
)  # fmt: skip
def test_what_was_done_to_a_voice_is_told_beside_its_own_others(corpus, name, tone):
    """Bert's voice is eight semitones lower than anna's, and ordinary for him."""
    assert heard(corpus, name)["tone"] == tone
    assert heard(corpus, name)["tone_source"] == "signal:librosa"


def test_only_a_long_pause_inside_of_speech_is_one(corpus):
    assert heard(corpus, "halted")["events"] == ["long pause"]
    assert heard(corpus, "halted")["events_source"] == "signal:librosa"
    assert heard(corpus, "zh_halted")["events"] == ["较长的停顿"]
    for name in ("breath", "anna0", "slow", "fast"):
        assert "events" not in heard(corpus, name)
    padded = np.concatenate([np.zeros(2 * RATE), talk(1), np.zeros(2 * RATE), 0.1 * np.ones(200), np.zeros(RATE // 2)])
    assert measure(padded.astype(np.float32)).pause < 0.5  # silence around speech, and a click behind it


def test_what_was_there_stays_as_it_was(corpus):
    before, after, _ = corpus
    assert heard(corpus, "mine") == {"tone": "a warm voice", "custom": 1.5, "events": ["long pause"],
                                     "events_source": "signal:librosa"}  # fmt: skip
    assert heard(corpus, "null") == {"tone": None, "events": None}
    assert heard(corpus, "all_null") == {}
    assert set(heard(corpus, "tagged")) == {"tone", "tone_source"}
    assert heard(corpus, "listed")["events"] == []
    added = {"tone", "tone_source", "events", "events_source"}
    for old, new in zip(before, after, strict=True):
        (old_turn,), (new_turn,) = old["turns"], new["turns"]
        ours = {key: value for key, value in (new_turn.get("ieat") or {}).items() if key not in added}
        kept = {key: value for key, value in (old_turn.get("ieat") or {}).items() if key not in added}
        assert json.dumps(ours) == json.dumps(kept)
        for each in (old_turn, new_turn):
            each.pop("ieat", None)
        assert json.dumps(old) == json.dumps(new)


def test_what_is_told_reaches_the_thinking_and_says_where_it_is_from(corpus):
    records = {each.dialogue_id: each for each in read_records(corpus[2] / "told.jsonl")}
    for name, said in (("all", "in a high, loud, fast voice"), ("zh_all", "用又高又响又快的声音说")):
        block = " ".join(thinking(records[name], 0, lambda *_: 0).values())
        assert said in block
        assert parse_thinking(block)["transcript"] == "I lost my keys."
        assert provenance(records[name], 0) == {"perceive": "signal:librosa"}
    assert all(
        not each.unread for name, each in records.items() if name != "mine"
    )  # nothing is written that nobody reads


def test_a_second_run_adds_nothing(corpus, tmp_path, capsys):
    _, after, folder = corpus
    out = tmp_path / "again.jsonl"
    arguments = ["describe", "--records", str(folder / "told.jsonl"), "--out", str(out), "--workers", "1"]
    assert prepare.main(arguments) == 0
    assert out.read_bytes() == (folder / "told.jsonl").read_bytes()
    assert "0 turns" in capsys.readouterr().out
    assert len(after) == len(out.read_text(encoding="utf-8").splitlines())


def test_in_a_corpus_brought_to_one_peak_loudness_is_read_from_the_spectrum(tmp_path):
    """An effort lifts what lies above 1 kHz; the level of such recordings says nothing."""
    sounds = usual("anna")
    sounds["effort"] = librosa.effects.preemphasis(talk(7), coef=0.9)
    sounds["soft"] = librosa.effects.deemphasis(talk(7), coef=0.9)
    sounds = {name: 0.99 * sound / np.abs(sound).max() for name, sound in sounds.items()}
    told = tones(described(write(tmp_path, sounds, [record(name) for name in sounds])))
    assert "loud" in told["effort"]
    assert "quiet" in told["soft"]
    assert [told[f"anna{i}"] for i in range(6)] == ["an ordinary voice"] * 6


@pytest.mark.parametrize(("gain", "tone"), [(2.0, "a loud voice"), (0.5, "a quiet voice")])
def test_a_clip_that_stands_out_of_equal_ones_is_told_by_its_level(gain, tone, tmp_path):
    sounds = {f"anna{i}": talk(i % 2) for i in range(6)} | {"other": talk(1, gain=gain)}
    assert tones(described(write(tmp_path, sounds, [record(name) for name in sounds])))["other"] == tone


def test_a_speaker_of_few_clips_is_told_by_the_corpus(tmp_path, capsys):
    sounds = usual("anna") | {"carl": talk(7, semitones=4), "who": talk(8, semitones=4)}
    records = [record(name, {"carl": "carl", "who": None}.get(name, "anna")) for name in sounds]
    told = {
        each["dialogue_id"]: each["turns"][0]["ieat"]["tone"] for each in described(write(tmp_path, sounds, records))
    }
    assert told["carl"] == told["who"] == "a high voice"
    assert "2 by that of all clips" in capsys.readouterr().out


def test_bad_sound_is_counted_named_and_bounded(tmp_path, capsys):
    sounds = usual("anna") | {"zero": np.zeros(RATE, np.float32)}
    path = write(tmp_path, sounds, [record(name) for name in (*sounds, "gone")])
    described(path, code=1)
    assert not (tmp_path / "told.jsonl").exists()
    assert "2 of 8 records are bad" in capsys.readouterr().err
    after = {each["dialogue_id"]: each for each in described(path, "--max-bad-share", "0.3")}
    assert after["gone"] == record("gone")
    assert after["zero"] == record("zero")
    notes = {note["id"]: note for note in map(json.loads, (tmp_path / "told.quarantine.jsonl").open())}
    assert {name: note["code"] for name, note in notes.items()} == {"zero": "silent", "gone": "missing"}
    assert f"{path}:8: gone: turn 1: gone.wav" in notes["gone"]["message"]


def test_work_that_was_cut_off_is_not_done_again(tmp_path, monkeypatch):
    sounds = usual("anna")
    path = write(tmp_path, sounds, [record(name) for name in sounds])
    whole, once, seen = described(path), command._measure, []
    (tmp_path / "told.jsonl").unlink()

    def dying(job):
        seen.append(job[0])
        if len(seen) == 4:
            raise KeyboardInterrupt
        return once(job)

    monkeypatch.setattr(command, "_measure", dying)
    with pytest.raises(KeyboardInterrupt):
        described(path)
    assert not (tmp_path / "told.jsonl").exists()
    assert described(path) == whole
    assert seen == [f"anna{i}.wav" for i in (0, 1, 2, 3, 3, 4, 5)]
    assert not list(tmp_path.glob("*.partial*"))


def test_records_are_not_overwritten(tmp_path):
    path = write(tmp_path, {}, [record("a")])
    with pytest.raises(UserError, match=r"--out \S+ would overwrite the records; choose another file"):
        prepare.main(["describe", "--records", str(path), "--out", str(path)])


def test_on_emo_db_anger_is_higher_and_louder_than_sadness(tmp_path, capsys):
    """Speakers 11 (a man) and 14 (a woman): all clips are measured, each beside its speaker's own."""
    folder = SHARED / "emodb" / "wav"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing (set IEAT_SHARED_DATA)")
    files = sorted(file for file in folder.glob("*.wav") if file.name[:2] in ("11", "14"))[::2]
    names = {file.stem: file.name for file in files}
    path = write(tmp_path, {}, [record(stem, stem[:2], split_audio_file=name) for stem, name in names.items()])
    told, count = collections.Counter(), collections.Counter()
    for each in described(path, "--audio-root", str(folder)):
        emotion = each["dialogue_id"][5]
        count[emotion] += 1
        told.update((emotion, word) for word in tone_of(each).replace(",", "").split())
    with capsys.disabled():
        for letter, emotion in (("W", "anger"), ("T", "sadness")):
            shares = {word: round(told[letter, word] / count[letter], 2) for word in ("high", "low", "loud", "quiet")}
            print(f"\n{emotion}, {count[letter]} clips: {shares}", end="")
    share = {key: told[key] / count[key[0]] for key in told}
    assert share["W", "high"] > 0.6 > 0.1 > share.get(("T", "high"), 0)
    assert share["W", "loud"] > 0.6 > 0.1 > share.get(("T", "loud"), 0)
    assert share["T", "low"] > 0.6
    assert share["T", "quiet"] > 0.5
