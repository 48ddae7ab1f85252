"""Teacher-forced accuracy of the speech units: how often the best id is the true one."""

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ieat_jax.data.batch import Batch
from ieat_jax.model.attention import Stream
from ieat_jax.model.unified import UnifiedModel


@partial(jax.jit)
def best_units(model: UnifiedModel, batch: Batch) -> jax.Array:
    """The model's best unit at every Speak position, [B,S,4]."""
    stream = Stream(batch.positions, batch.segment_ids, batch.branch_ids)
    audio = model.listen(batch.mel, batch.clip_frames)[0] if batch.mel.shape[1] else None
    states = model.think(batch.tokens, stream, audio, batch.audio_index)
    fed = model.speak.feed(states, batch.speak_state, batch.speak_units)
    spoken = model.speak(fed, Stream(batch.speak_positions, batch.speak_ids, jnp.zeros_like(batch.speak_ids)))
    return jnp.argmax(model.speak.unit_logits(spoken), axis=-1)


def unit_accuracy(model: UnifiedModel, batches: Iterable[Batch], end_id: int) -> dict:
    """{'accuracy', 'unigram', 'n'} over all units that stand for sound; the end of speech is not counted.

    `unigram` is the accuracy of always answering the commonest of the scored units: the best constant answer.
    """
    hits, targets = [], []
    for batch in batches:
        best, wanted = np.asarray(best_units(model, batch)), np.asarray(batch.speak_targets)
        counted = (wanted >= 0) & (wanted < end_id)
        hits.append(best[counted] == wanted[counted])
        targets.append(wanted[counted])
    right, wanted = np.concatenate(hits or [np.zeros(0, bool)]), np.concatenate(targets or [np.zeros(0, int)])
    if not len(wanted):
        return {"accuracy": None, "unigram": None, "n": 0}
    return {
        "accuracy": float(right.mean()),
        "unigram": float(np.bincount(wanted).max() / len(wanted)),
        "n": len(wanted),
    }
