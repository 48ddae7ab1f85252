"""What shards are made of, without Beam: checks, units, tokens, the account, the card."""

import json
import shutil

import numpy as np
import pytest
from helpers import spoken_corpus, tiny_corpus, tiny_run

from ieat_jax import prepare
from ieat_jax.audio.codec import CodecError
from ieat_jax.audio.files import AudioError
from ieat_jax.data.payload import Payload
from ieat_jax.data.quarantine import Quarantine, QuarantineError
from ieat_jax.data.records import RecordError, parse_record
from ieat_jax.data.sources.array_record import ArrayRecords
from ieat_jax.data.understood import LabelError
from ieat_jax.errors import UserError
from ieat_jax.preparation.shards.cut import cut, look_through, some
from ieat_jax.preparation.shards.make import DialogueMaker, Settings, ShardError, make_shard
from ieat_jax.text.tokenizer import train_tokenizer

SETTINGS = Settings(clip_seconds=30.0, reply_seconds=60.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return spoken_corpus.write(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def copy(corpus, tmp_path):
    shutil.copytree(corpus.parent, tmp_path / "corpus")
    return tmp_path / "corpus" / "all.jsonl"


def change(path, line, value):
    lines = path.read_text().splitlines()
    lines[line - 1] = value if isinstance(value, str) else json.dumps(value)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_every_line_is_in_one_shard_in_order(corpus, tmp_path, count):
    second = tmp_path / "second.jsonl"
    second.write_text("\n\n" + corpus.read_text().replace('"dialogue_id": "d', '"dialogue_id": "e') + "\n  \n")
    files = look_through([corpus, second], [corpus.parent, corpus.parent])
    assert [file.numbers.tolist() for file in files] == [list(range(1, 9)), list(range(3, 11))]
    jobs = cut(files, count)
    found = [(part.path, part.number + n) for job in jobs for part in job.parts for n in range(part.lines)]
    assert found == [(str(corpus), n) for n in range(1, 9)] + [(str(second), n) for n in range(3, 11)]
    sizes = [sum(part.lines for part in job.parts) for job in jobs]
    assert max(sizes) - min(sizes) <= 1
    for job in jobs:
        for part in job.parts:
            with open(part.path, "rb") as file:
                file.seek(part.begin)
                number = part.number - (3 if part.path == str(second) else 1)
                assert json.loads(file.readline())["dialogue_id"][1:] == str(number)


def test_a_sample_of_lines_is_spread_over_all(corpus):
    files = look_through([corpus], [corpus.parent])
    assert [job.parts[0].number for job in some(files, 4)] == [1, 3, 5, 7]
    assert len(some(files, 100)) == 8


def test_accepted_and_quarantined_are_the_input(copy, tmp_path):
    first = json.loads(copy.read_text().splitlines()[0])
    change(copy, 3, "no json")
    change(copy, 5, first)
    (copy.parent / "1_0_full.wav").write_bytes(b"RIFF")
    quarantine = Quarantine(0.5)
    card = spoken_corpus.shards(copy, tmp_path / "out", quarantine=quarantine)
    assert (card["input_lines"], card["dialogues"], card["quarantined"]) == (8, 5, 3)
    notes = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [(note["line"], note["code"]) for note in notes] == [(2, "not_audio"), (3, "not_json"), (5, "duplicate_id")]
    assert f"{copy}:1 already" in notes[2]["message"]
    assert notes[0]["dialogue_id"] == "d1"
    assert card["quarantine"] == {"duplicate_id": 1, "not_audio": 1, "not_json": 1}
    source = ArrayRecords(tmp_path / "out")
    assert [source.record(n).dialogue_id for n in range(len(source))] == ["d0", "d3", "d5", "d6", "d7"]
    readme = (tmp_path / "out" / "README.md").read_text()
    for line in ("| lines of the input | 8 |", "| tones | CC0 | 5 |", "| duplicate_id | 1 |", "| sad | "):
        assert line in readme


def test_too_much_that_is_bad_leaves_no_index(copy, tmp_path):
    change(copy, 3, "no json")
    with pytest.raises(QuarantineError, match="1 of 8 records are bad"):
        spoken_corpus.shards(copy, tmp_path / "out")
    assert not (tmp_path / "out" / "index").exists()
    assert json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())["line"] == 3
    change(copy, 3, json.loads(copy.read_text().splitlines()[7]) | {"dialogue_id": "d2"})
    text = copy.read_text().replace('"sad"', '"sadd"')
    copy.write_text(text)
    with pytest.raises(LabelError, match="'sadd' x"):
        spoken_corpus.shards(copy, tmp_path / "out2")


def test_a_path_that_leads_out_ends_it(copy, tmp_path):
    value = json.loads(copy.read_text().splitlines()[0])
    value["turns"][0]["split_audio_file"] = "../../x.wav"
    change(copy, 1, value)
    with pytest.raises(RecordError, match="outside_root"):
        spoken_corpus.shards(copy, tmp_path / "out")


def test_a_recording_that_was_repaired_is_read_again(copy, tmp_path):
    good = (copy.parent / "0_0_plain.wav").read_bytes()
    (copy.parent / "0_0_plain.wav").write_bytes(good[:50])
    assert spoken_corpus.shards(copy, tmp_path / "out", quarantine=Quarantine(0.5))["quarantined"] == 1
    (copy.parent / "0_0_plain.wav").write_bytes(good)
    assert spoken_corpus.shards(copy, tmp_path / "out")["quarantined"] == 0


def test_units_are_made_of_replies_and_their_sound_is_kept_on_demand(tmp_path):
    codec = tmp_path / "codec"
    tiny_run.mel_codec().save(codec)
    record = tiny_corpus.record("d", [tiny_corpus.turn(1, "happy", "audio/0.wav", response_audio="audio/1.wav")])
    path = tiny_corpus.write(tmp_path, [record])
    settings = {"codec": str(codec), "replies": True}
    card = spoken_corpus.shards(path, tmp_path / "out", 1, **settings)
    maker = DialogueMaker(Settings(30.0, 60.0, **settings))
    made = maker(parse_record(record), tmp_path)
    (turn,) = ArrayRecords(tmp_path / "out").record(0).turns
    np.testing.assert_array_equal(turn.units, made.record.turns[0].units)
    assert len(turn.units) > 4
    assert card["codec"] == maker.codec.identity()
    assert Payload(made.payload).waveform(0, reply=True) is not None
    assert Payload(DialogueMaker(SETTINGS)(parse_record(record), tmp_path).payload).flac(0, reply=True) is None
    other = tiny_corpus.records()[2]
    with pytest.raises(CodecError, match="units of another codec"):
        maker(parse_record(other), tmp_path)


def test_tokens_are_counted_with_the_identity_of_their_tokenizer(corpus, tmp_path):
    tokenizer = train_tokenizer(spoken_corpus.TEXTS * 3, 300)
    tokenizer.save(tmp_path / "tokenizer")
    card = spoken_corpus.shards(corpus, tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"))
    source = ArrayRecords(tmp_path / "out")
    turns = [turn for n in range(len(source)) for turn in source.record(n).turns]
    assert source.index["text_tokens"].tolist() == [len(tokenizer.encode(turn.text)) for turn in turns]
    assert source.index["reply_tokens"].tolist() == [len(tokenizer.encode(turn.response_text)) for turn in turns]
    assert card["tokenizer"] == source.index.facts["tokenizer"]
    assert card["tokenizer"]["vocab_size"] == tokenizer.vocab_size


def test_loudness_is_left_alone(corpus):
    record = parse_record(json.loads(corpus.read_text().splitlines()[0]))
    wave = Payload(DialogueMaker(SETTINGS)(record, corpus.parent).payload).waveform(0)
    assert np.abs(wave).max() == pytest.approx(0.4, abs=0.001)
    with pytest.raises(AudioError, match="too_long"):
        DialogueMaker(Settings(0.1, 0.1))(record, corpus.parent)


def test_units_of_two_codecs_are_refused(tmp_path):
    one, two = tiny_corpus.records()[2], tiny_corpus.records()[2]
    two["dialogue_id"], two["ieat_meta"]["codec"] = "d2", {**two["ieat_meta"]["codec"], "hash": "1"}
    path = tiny_corpus.write(tmp_path, [one, two])
    with pytest.raises(ShardError, match=r"units of several codecs: 'd1'.*'d2'"):
        spoken_corpus.shards(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--shards", "0"], "--shards 0: must be 1"),
        (["--shard-mib", "0"], "--shard-mib 0.0: must be above 0"),
        (["--max-seconds", "nan"], "--max-seconds nan: must be above 0"),
        (["--codec", "nowhere"], "no codec here"),
        (["--tokenizer", "nowhere"], "nowhere: there is no such"),
        (["--workers", "-1"], "--workers -1"),
        (["--max-bad-share", "2"], "max_share"),
    ],
)
def test_arguments_that_cannot_be_used(corpus, tmp_path, arguments, told):
    with pytest.raises(UserError, match=told):
        prepare.main(["shards", "--records", str(corpus), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(corpus, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty, and holds no shards"):
        prepare.main(["shards", "--records", str(corpus), "--out", str(tmp_path), "--shards", "2"])
    spoken_corpus.shards(corpus, tmp_path / "out", 3)
    with pytest.raises(UserError, match="of another number of shards"):
        prepare.main(["shards", "--records", str(corpus), "--out", str(tmp_path / "out"), "--shards", "2"])


def test_a_shard_alone_is_the_same_wherever_it_is_made(corpus, tmp_path):
    files = look_through([corpus], [corpus.parent])
    maker, job = DialogueMaker(SETTINGS), cut(files, 3)[1]
    told = [make_shard(job, maker, str(tmp_path / name)) for name in ("a", "b")]
    assert told[0] == told[1]
    for name in ("00001-of-00003.array_record", "00001-of-00003.jsonl", "00001-of-00003.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
