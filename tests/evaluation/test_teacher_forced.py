import numpy as np
import pytest
from helpers import tiny_corpus as corpus
from helpers import tiny_run
from helpers.answers import measured

from ieat_jax.evaluation.teacher_forced import read_units, trimmed, true_units
from ieat_jax.training.rows import evaluation_batches


def test_unit_accuracy_is_that_of_the_model(tmp_path, monkeypatch):
    run, generator = tiny_run.make_run(), tiny_run.make_generator()
    records = corpus.write(tmp_path, corpus.records())
    batches = list(evaluation_batches(run, records, None, batch_size=4))
    monkeypatch.setattr(
        "ieat_jax.evaluation.teacher_forced.best_units",
        lambda model, batch, audio: np.broadcast_to([0, 5, 99, 99], (*batch.unit_at.shape, 4)),  # units are 0, 1, 2, ..
    )
    units = read_units(run.model, generator.listener, batches, 20)
    found = measured([], [], {"units"}, units=units)["units"]
    assert found == {"accuracy": pytest.approx(2 / 11), "unigram": pytest.approx(1 / 11), "n": 11}


def test_trimming_leaves_out_padding_only(tmp_path):
    spoken = corpus.turn(1, "sad", "audio/1.wav", units=list(range(11)))
    records = corpus.write(tmp_path, [corpus.record("d", [spoken], codec=tiny_run.StubCodec().identity())])
    batch = next(iter(evaluation_batches(tiny_run.make_run(), records, None, batch_size=4)))
    cut = trimmed(batch)
    for name, used in (("segment_ids", batch.segment_ids > 0), ("speak_ids", batch.speak_ids > 0)):
        size = getattr(cut, name).shape[1]
        assert size < used.shape[1]
        assert not used[:, size:].any()
    assert (true_units(cut) >= 0).sum() == (true_units(batch) >= 0).sum() == 12  # 11 units and the end
    assert cut.speak_units.shape[:2] == cut.speak_state.shape
