import json

import numpy as np
import pytest
import soundfile
from helpers import crashing

from ieat_jax import prepare
from ieat_jax.audio.files import read_audio
from ieat_jax.codecs.load import load_codec
from ieat_jax.codecs.mel import MelCodec
from ieat_jax.data.records import RecordError, read_records
from ieat_jax.errors import UserError
from ieat_jax.preparation import units as extraction
from ieat_jax.preparation.units import encode_files, resynthesis
from ieat_jax.text.tokenizer import load_tokenizer


def buzz(seconds, seed):
    """A voice-like sound: harmonics under a moving resonance, with gaps."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16_000)) / 16_000
    pitch = rng.uniform(150, 250) * 2 ** (0.2 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    centre = 900 + 500 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time)
    wave = sum(np.sin(k * phase) * np.exp(-np.square((k * pitch - centre) / 600)) for k in range(1, 16))
    return (0.08 * wave * np.clip(5 * np.sin(9 * time) + 3, 0, 1) + 0.001 * rng.standard_normal(len(time))).astype("f")


def dialogue(name, turns):
    listed = []
    for number, (text, emotion, reply) in enumerate(turns, 1):
        turn = {"turn_id": number, "text": text, "emotion": emotion, "response_text": "I see, " + text}
        turn |= {"split_audio_file": f"audio/{name}_{number}.wav"} | ({"response_audio": reply} if reply else {})
        listed.append(turn | {"ieat": {"response": {"emotion": "comfort"}}})
    return {"dialogue_id": name, "turns": listed, "ieat_meta": {"language": "en"}}


RECORDS = [
    dialogue("d1", [("I lost my keys.", "sad", "audio/r1.wav"), ("They are gone.", "anger", "audio/r2.wav")]),
    dialogue("d2", [("It is late.", "fear", "audio/r1.wav")]),
    dialogue("d3", [("Nobody speaks here.", "neutral", None)]),
]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three records with audio, and a codec trained on their replies."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "audio").mkdir()
    names = [f"d{number}_{turn}" for number, turn in ((1, 1), (1, 2), (2, 1), (3, 1))]
    for seed, name in enumerate([*names, "r1", "r2"]):
        soundfile.write(folder / "audio" / f"{name}.wav", buzz(4 if name[0] == "r" else 1, seed), 16_000)
    write(folder / "train.jsonl", RECORDS)
    write(folder / "text.jsonl", [RECORDS[2] | {"dialogue_id": "t1"}])
    arguments = ["codec", "--records", str(folder / "train.jsonl"), "--out", str(folder / "codec"), "--codes", "64"]
    assert prepare.main(arguments) == 0
    return folder


def test_units_are_those_of_the_codec(corpus, tmp_path, capsys):
    sources = [str(corpus / "train.jsonl"), str(corpus / "text.jsonl")]
    command = ["units", "--records", *sources, "--codec", str(corpus / "codec"), "--out", str(tmp_path / "u")]
    assert prepare.main([*command, "--workers", "1"]) == 0
    assert "2 replies, 400 units" in capsys.readouterr().out
    codec = load_codec(corpus / "codec")
    first, second, third = read_records(tmp_path / "u" / "train.jsonl")
    for turn in (*first.turns, *second.turns):
        wanted = codec.encode(read_audio(turn.response_audio, max_seconds=9, root=corpus))
        np.testing.assert_array_equal(turn.units, wanted)
    assert first.codec == second.codec == codec.identity()
    assert third.turns[0].units is None
    assert third.codec is None
    assert third.turns == read_records(corpus / "train.jsonl")[2].turns
    assert [record.dialogue_id for record in read_records(tmp_path / "u" / "text.jsonl")] == ["t1"]
    check = ["check", "--records", str(tmp_path / "u" / "train.jsonl"), "--audio-root", str(corpus)]
    assert prepare.main(check) == 0
    assert capsys.readouterr().err.endswith("3 records, all good\n")


def test_processes_give_the_same_units(corpus):
    files = [f"audio/r{1 + number % 2}.wav" for number in range(19)] + ["audio/none.wav"]
    found = list(encode_files(files, corpus, corpus / "codec", workers=2))
    assert [file for file, _ in found] == files
    codec = load_codec(corpus / "codec")
    wanted = {file: codec.encode(read_audio(file, max_seconds=9, root=corpus)) for file in files[:2]}
    for file, units in found[:-1]:
        np.testing.assert_array_equal(units, wanted[file])
    assert found[-1][1].code == "missing"


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError(), MemoryError("much"), UserError("a"), KeyError(3)])
def test_an_error_of_any_class_costs_its_item_alone(error, corpus, tmp_path, capsys, monkeypatch):
    encode = MelCodec.encode

    def fails_once(self, waveform):
        if len(waveform) == 3 * 16_000:
            raise error
        return encode(self, waveform)

    monkeypatch.setattr(MelCodec, "encode", fails_once)
    soundfile.write(corpus / "audio" / "three.wav", buzz(3, 0), 16_000)
    records = write(
        corpus / "one_bad.jsonl", [RECORDS[0], dialogue("bad", [("x", "sad", "audio/three.wav")]), RECORDS[1]]
    )
    command = ["units", "--records", str(records), "--codec", str(corpus / "codec"), "--workers", "1"]
    assert prepare.main([*command, "--out", str(tmp_path), "--max-bad-share", "0.5"]) == 0
    assert "left out 1 of 3 records (1 x not_encoded)" in capsys.readouterr().out
    assert [record.dialogue_id for record in read_records(tmp_path / "one_bad.jsonl")] == ["d1", "d2"]
    (note,) = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").open()]
    assert "audio/three.wav" in note["message"]
    assert type(error).__name__ in note["message"]


def test_a_process_that_dies_costs_its_item_alone(corpus, monkeypatch):
    monkeypatch.setattr(extraction, "_encode", crashing.encode)
    (corpus / "audio" / "crash.wav").write_bytes((corpus / "audio" / "r1.wav").read_bytes())
    files = [f"audio/r{1 + number % 2}.wav" for number in range(20)]
    files[11] = "audio/crash.wav"
    found = list(encode_files(files, corpus, corpus / "codec", workers=2))
    assert [file for file, _ in found] == files
    assert [getattr(result, "code", None) for _, result in found] == [None] * 11 + ["crashed"] + [None] * 8
    assert len(found[-1][1]) == 200


def test_what_was_encoded_before_a_stop_is_not_encoded_again(corpus, tmp_path, monkeypatch):
    encoded = []
    encode = extraction._encode
    monkeypatch.setattr(extraction, "_encode", lambda job: encoded.append(job[0]) or encode(job))
    bad = dialogue("bad", [("x", "sad", "audio/none.wav")])
    records = write(corpus / "stop.jsonl", [*RECORDS, bad])
    command = ["units", "--records", str(records), "--codec", str(corpus / "codec"), "--workers", "1"]
    command += ["--out", str(tmp_path)]
    assert prepare.main(command) == 1  # more bad than accepted: nothing is written
    assert encoded == ["audio/r1.wav", "audio/r2.wav", "audio/none.wav"]
    with (tmp_path / "encoded.partial.jsonl").open("a") as journal:
        journal.write('{"file": "audio/r1.w')  # the machine stopped here
    encoded.clear()
    assert prepare.main([*command, "--max-bad-share", "0.5"]) == 0
    assert encoded == ["audio/none.wav"]
    assert not (tmp_path / "encoded.partial.jsonl").exists()
    codec = load_codec(corpus / "codec")
    first = read_records(tmp_path / "stop.jsonl")[0]
    wanted = codec.encode(read_audio("audio/r1.wav", max_seconds=9, root=corpus))
    np.testing.assert_array_equal(first.turns[0].units, wanted)
    # Another file under the same name is encoded again.
    journal = tmp_path / "journal"
    soundfile.write(corpus / "audio" / "changing.wav", buzz(1, 5), 16_000)
    list(encode_files(["audio/changing.wav"], corpus, corpus / "codec", workers=1, journal=journal))
    soundfile.write(corpus / "audio" / "changing.wav", buzz(2, 6), 16_000)
    ((_, ids),) = encode_files(["audio/changing.wav"], corpus, corpus / "codec", workers=1, journal=journal)
    assert len(ids) == 100


def test_a_bad_reply_is_left_out_and_reported(corpus, tmp_path, capsys):
    bad = dialogue("bad", [("x", "sad", "audio/r1.wav"), ("y", "sad", "audio/none.wav")])
    records = write(corpus / "bad.jsonl", [*RECORDS, bad])
    command = ["units", "--records", str(records), "--codec", str(corpus / "codec"), "--workers", "1"]
    out = tmp_path / "strict"
    assert prepare.main([*command, "--out", str(out)]) == 1
    assert "1 of 4 records are bad" in capsys.readouterr().err
    assert not (out / "bad.jsonl").exists()
    out = tmp_path / "lenient"
    assert prepare.main([*command, "--out", str(out), "--max-bad-share", "0.25"]) == 0
    assert "left out 1 of 4 records (1 x missing)" in capsys.readouterr().out
    assert [record.dialogue_id for record in read_records(out / "bad.jsonl")] == ["d1", "d2", "d3"]
    (note,) = [json.loads(line) for line in (out / "quarantine.jsonl").open()]
    assert note["code"] == "missing"
    assert "audio/none.wav" in note["message"]


def test_units_never_overwrite_their_records(corpus, tmp_path):
    command = ["units", "--records", str(corpus / "train.jsonl"), "--codec", str(corpus / "codec")]
    with pytest.raises(UserError, match="would overwrite"):
        prepare.main([*command, "--out", str(corpus)])
    command.insert(2, str(write(tmp_path / "train.jsonl", RECORDS)))
    with pytest.raises(UserError, match=r"2 of the --records are named train\.jsonl"):
        prepare.main([*command, "--out", str(tmp_path / "u")])
    with pytest.raises(UserError, match="no codec here"):
        prepare.main(["units", "--records", "x", "--codec", str(tmp_path), "--out", str(tmp_path / "u")])


def test_units_of_another_codec_without_audio_are_refused(corpus, tmp_path):
    record = dialogue("old", [("x", "sad", None)])
    record["turns"][0]["ieat"]["response"]["units"] = [1, 2]
    record["ieat_meta"]["codec"] = {"name": "other", "rate": 25, "vocab_size": 9, "hash": "x"}
    records = write(corpus / "old.jsonl", [record])
    with pytest.raises(UserError, match=r"old\.jsonl: old: units of another codec"):
        prepare.main(
            ["units", "--records", str(records), "--codec", str(corpus / "codec"), "--out", str(tmp_path / "u")]
        )


def test_codec_needs_replies(corpus, tmp_path):
    with pytest.raises(UserError, match="nothing to train a codec on"):
        prepare.main(["codec", "--records", str(corpus / "text.jsonl"), "--out", str(tmp_path)])
    with pytest.raises(UserError, match="too little to train 4096 units"):
        prepare.main(["codec", "--records", str(corpus / "train.jsonl"), "--out", str(tmp_path)])


def test_resynthesis_figures(corpus):
    figures = resynthesis(load_codec(corpus / "codec"), [buzz(2, 4)])
    assert set(figures) == {"spectrum_db", "level_db", "pitch_semitones", "voicing"}
    assert 0 < figures["spectrum_db"] < 6
    assert figures["level_db"] < 3
    assert figures["pitch_semitones"] < 1.5
    assert 0.8 < figures["voicing"] <= 1


def test_tokenizer_knows_words_and_thinking(corpus, tmp_path, capsys):
    command = ["tokenizer", "--records", str(corpus / "train.jsonl"), str(corpus / "text.jsonl")]
    assert prepare.main([*command, "--out", str(tmp_path), "--vocab-size", "900"]) == 0
    assert "tokens from 4 dialogues" in capsys.readouterr().out
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size <= 900
    for text in ("The user feels bored (strong).", "I should answer in an encouraging tone."):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) < len(text) / 2
    chinese = "用户感到无聊"
    assert [tokenizer.decode([token]) for token in tokenizer.encode(chinese)] == list(chinese)
    with pytest.raises(UserError, match="at least"):
        prepare.main([*command, "--out", str(tmp_path), "--vocab-size", "100"])


def problems(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_check_reports_every_bad_record(corpus, capsys):
    (corpus / "audio" / "silent.wav").unlink(missing_ok=True)
    soundfile.write(corpus / "audio" / "silent.wav", np.zeros(16_000), 16_000)
    two = dialogue("two", [("x", "sad", "audio/silent.wav"), ("y", "sad", "audio/none.wav")])
    path = corpus / "check.jsonl"
    path.write_text("\n".join([json.dumps(RECORDS[0]), "{", json.dumps(two), json.dumps(RECORDS[1])]))
    assert prepare.main(["check", "--records", str(path)]) == 1
    first, second = problems(capsys)
    assert (first["line"], first["code"], first["dialogue_id"]) == (2, "not_json", None)
    assert (second["line"], second["dialogue_id"]) == (3, "two")
    assert len(second["problems"]) == 4
    assert prepare.main(["check", "--records", str(path), "--max-bad-share", "0.5"]) == 0
    assert prepare.main(["check", "--records", str(path), "--max-bad-share", "0.5", "--max-seconds", "2"]) == 1
    assert [problem["code"] for problem in problems(capsys)].count("too_long") >= 1


USES = {
    "everything": ({}, "1 of 1 usable for write", "1 of 1 usable for align", "0 of 1 usable for joint: no units"),
    "no reply": ({"response_text": None}, "write: no reply", "0 of 1 usable for align: no reply", "no reply, no units"),
    "blank reply": ({"response_text": " \n\u3000"}, "write: no reply", "align: no reply", "joint: no reply, no units"),
    "no audio": ({"split_audio_file": None}, "1 of 1 usable for write", "align: no audio", "joint: no audio, no units"),
    "neither": (
        {"split_audio_file": None, "response_text": ""},
        "0 of 1 usable for write: no reply",
        "0 of 1 usable for align: no audio, no reply",
        "0 of 1 usable for joint: no audio, no reply, no units",
    ),
    "no words": ({"text": " "}, "0 of 1 usable for write: no text", "1 of 1 usable for align", "joint: no units"),
}


@pytest.mark.parametrize(("changes", "write_", "align", "joint"), USES.values(), ids=USES)
def test_check_says_what_each_stage_can_use(changes, write_, align, joint, corpus, capsys):
    record = dialogue("one", [("Hello.", "sad", None)])
    record["turns"][0] |= changes | ({} if "split_audio_file" in changes else {"split_audio_file": "audio/d1_1.wav"})
    path = write(corpus / "stages.jsonl", [record])
    assert prepare.main(["check", "--records", str(path)]) == 0
    said = capsys.readouterr().err
    for sentence in (write_, align, joint):
        assert sentence in said
    assert ("all good" in said) == ("1 of 1" in said)
    for stage, sentence in (("write", write_), ("align", align), ("joint", joint)):
        code = prepare.main(["check", "--records", str(path), "--stage", stage])
        assert code == (0 if sentence.startswith("1 of 1") else 1)


def test_check_counts_turns_that_lack_something_and_audio_that_cannot_be_used(corpus, capsys):
    half = dialogue("half", [("a", "sad", None), ("b", "sad", None)])
    for turn in half["turns"]:
        turn["split_audio_file"] = "audio/d1_1.wav"
    half["turns"][1]["response_text"] = ""
    lost = dialogue("lost", [("a", "sad", None)])
    path = write(corpus / "half.jsonl", [half, lost])
    assert prepare.main(["check", "--records", str(path), "--max-bad-share", "0.5"]) == 0
    said = capsys.readouterr().err
    assert "0 of 2 usable for align: not every turn has reply x 1, no usable audio x 1" in said
    assert "1 of 2 usable for write: not every turn has reply x 1" in said


@pytest.mark.parametrize(("seconds", "code"), [(29.5, 0), (30.5, 1), (59, 1)])
def test_check_assumes_the_window_that_the_model_hears(seconds, code, corpus, capsys):
    soundfile.write(corpus / "audio" / "long.wav", buzz(seconds, 0), 16_000)
    record = dialogue("long", [("a", "sad", "audio/long.wav")])
    record["turns"][0]["split_audio_file"] = "audio/long.wav"
    path = write(corpus / "long.jsonl", [record])
    assert prepare.main(["check", "--records", str(path)]) == code
    assert [problem["code"] for problem in problems(capsys)] == ["too_long"] * code
    assert prepare.main(["check", "--records", str(path), "--max-seconds", "60"]) == 0
    # Replies may be longer than clips: they are not heard.
    record["turns"][0]["split_audio_file"] = "audio/d1_1.wav"
    assert prepare.main(["check", "--records", str(write(path, [record]))]) == 0


TAGS = [
    "<think>",
    "</think>",
    "<THINK>",
    "<thinking>",
    "<audio>",
    "<|audio|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<speech>",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(("where", "name"), [("response_text", "reply"), ("text", "text"), ("think", "thinking")])
def test_check_warns_of_tags(tag, where, name, corpus, capsys):
    record = dialogue("tags", [("a", "sad", None)])
    text = f"{tag} He is sad. {tag}"
    record["turns"][0] |= {"split_audio_file": "audio/d1_1.wav"}
    record["turns"][0] |= {"ieat": {"think": {"text": text}}} if where == "think" else {where: text}
    path = write(corpus / "tags.jsonl", [record])
    assert prepare.main(["check", "--records", str(path)]) == 0
    said = capsys.readouterr().err
    assert f"warning: {tag.lower()} stands in 1 x {name}" in said
    assert "all good" not in said


def test_angle_brackets_alone_are_no_tags(corpus, capsys):
    record = dialogue("tags", [("a < b > c <3 <- x", "sad", None)])
    record["turns"][0] |= {"split_audio_file": "audio/d1_1.wav", "response_text": "I think so <b>now</b>."}
    assert prepare.main(["check", "--records", str(write(corpus / "tags.jsonl", [record]))]) == 0
    assert "all good" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (RECORDS[0], "duplicate_id"),
        (dialogue("x", [("a", "sad", "/etc/passwd")]), "outside_root"),
        (dialogue("x", [("a", "sad", "audio/link.wav")]), "outside_root"),
    ],
)
def test_some_problems_fail_a_check_whatever_the_share(line, code, corpus, capsys, tmp_path):
    soundfile.write(tmp_path / "other.wav", buzz(1, 0), 16_000)
    link = corpus / "audio" / "link.wav"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "other.wav")
    path = write(corpus / "fatal.jsonl", [RECORDS[0], line])
    assert prepare.main(["check", "--records", str(path), "--max-bad-share", "1"]) == 1
    assert code in [problem["code"] for problem in problems(capsys)]


def test_check_of_no_file(tmp_path):
    with pytest.raises(RecordError, match="no such file"):
        prepare.main(["check", "--records", str(tmp_path / "no.jsonl")])


def test_an_import_writes_a_file_per_split_and_copies_nothing(tmp_path, capsys):
    source = tmp_path / "wav"
    source.mkdir()
    for name in ("03a01Wa", "12a01Na", "15b10Ta"):
        soundfile.write(source / f"{name}.wav", buzz(1, 0), 22_050)
    assert prepare.main(["import", "emodb", str(source), "--out", str(tmp_path / "out")]) == 0
    assert "--audio-root" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "test.jsonl", "train.jsonl", "validation.jsonl",
    ]  # fmt: skip
    for split in ("train", "validation", "test"):
        records = str(tmp_path / "out" / f"{split}.jsonl")
        assert prepare.main(["check", "--records", records, "--audio-root", str(source)]) == 0


def test_demo_refuses_a_folder_in_use(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match="exists already"):
        prepare.main(["demo", "--out", str(tmp_path), "--hours", "0.01"])
    with pytest.raises(UserError, match="hours=0"):
        prepare.main(["demo", "--out", str(tmp_path / "new"), "--hours", "0"])


@pytest.mark.parametrize("argv", [[], ["demo"], ["units", "--records", "x"], ["nonsense"]])
def test_wrong_arguments_exit_2(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        prepare.main(argv)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err
