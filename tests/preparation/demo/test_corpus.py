import numpy as np

from ieat_jax.audio.files import read_audio
from ieat_jax.data.chance import chooser
from ieat_jax.data.injection import parse_thinking, thinking
from ieat_jax.data.records import read_records, to_json
from ieat_jax.preparation.demo.corpus import SPLITS
from ieat_jax.preparation.demo.text import EMOTIONS


def test_the_demo_corpus_reads_without_loss(tiny_demo, demo_lines):
    assert set(demo_lines) == {"train.jsonl", "validation.jsonl", "test.jsonl", "text.jsonl"}
    for name, lines in demo_lines.items():
        records = read_records(tiny_demo / name)
        assert [to_json(record) for record in records] == lines
        for record in records:
            assert record.kind in ("neutral_words", "congruent", "text")
            for turn in record.turns:
                assert turn.emotion in EMOTIONS
                assert turn.emotion_source == "gold"
                assert turn.tone
                assert turn.response_emotion
                assert turn.response_text
                assert (turn.cause is None) == (turn.raw["ieat"]["cause"] is None)
            if record.kind == "congruent":
                assert all(turn.cause for turn in record.turns)


def test_its_audio_is_there_and_its_thinking_reads_back(tiny_demo):
    for split in SPLITS:
        for record in read_records(tiny_demo / f"{split}.jsonl"):
            assert record.speaker == "hibari"
            for index, turn in enumerate(record.turns):
                assert len(read_audio(turn.audio, max_seconds=12, root=tiny_demo)) > 4000
                assert len(read_audio(turn.response_audio, max_seconds=12, root=tiny_demo)) > 4000
                parsed = parse_thinking(
                    " ".join(thinking(record, index, chooser(np.random.default_rng(index))).values())
                )
                assert parsed["valid"]
                assert parsed["emotion"] == turn.emotion
                assert parsed["intensity"] == turn.intensity
                assert parsed["transcript"] == turn.text
                assert parsed["style"] == turn.response_emotion
                assert parsed["cause"] == (turn.cause.text if turn.cause else None)


def test_chinese_text_dialogues_read_back(tiny_demo):
    records = [record for record in read_records(tiny_demo / "text.jsonl") if record.language == "zh"]
    assert len(records) == 20
    for record in records:
        for index, turn in enumerate(record.turns):
            assert turn.audio is None
            parsed = parse_thinking("".join(thinking(record, index, chooser(np.random.default_rng(index))).values()))
            assert parsed["valid"]
            assert parsed["emotion"] == turn.emotion
            assert parsed["cause"] == (turn.cause.text if turn.cause else None)
