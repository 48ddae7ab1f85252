"""The teacher-forced pass over speech units: the best id at every place, when the true ones before it are given."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ieat_jax.data.batch import Batch
from ieat_jax.inference.generator import bucket
from ieat_jax.inference.listener import Listener
from ieat_jax.model.llm import pick_rows
from ieat_jax.model.sharding import put
from ieat_jax.model.sight import Sight
from ieat_jax.model.unified import UnifiedModel


@jax.jit
def best_units(model: UnifiedModel, batch: Batch, audio: jax.Array) -> jax.Array:
    """The model's best unit of every group of the batch, [B,Q,4]; `audio` [B,C,A,D] is what Listen makes of it."""
    sight = Sight(batch.positions, batch.segment_ids, batch.branch_ids)
    states = model.think(batch.tokens, sight, audio, batch.audio_index)
    fed = model.speak.feed(states, batch.speak_state, batch.speak_units)
    spoken = model.speak(fed, Sight(batch.speak_positions, batch.speak_ids))
    return jnp.argmax(model.speak.unit_logits(pick_rows(spoken, batch.unit_at)), axis=-1)


def hear(batch: Batch, listener: Listener, model: UnifiedModel) -> np.ndarray:
    """Listen's positions of the batch's clips [B,C,A,D], zero elsewhere."""
    frames = np.asarray(batch.clip_frames)
    places = list(zip(*np.nonzero(frames), strict=True))
    behind, window = listener.config.behind or 0, batch.mel.shape[-2]
    # Nothing stands behind a window: its last frame is as good as any.
    heard = listener(
        [np.asarray(batch.mel[place])[np.minimum(np.arange(frames[place] + behind), window - 1)] for place in places]
    )
    audio = np.zeros((*frames.shape, listener.positions, model.config.llm.width), jnp.dtype(model.config.dtype))
    for place, positions in zip(places, heard, strict=True):
        audio[place][: len(positions)] = positions
    return audio


_TOKENS = ("tokens", "positions", "segment_ids", "branch_ids", "audio_index")
_SPEAK = ("speak_state", "speak_units", "speak_targets", "speak_positions", "speak_ids")


def trimmed(batch: Batch) -> Batch:
    """The fields that are read here, without the padding that no row needs; in few lengths, for few compilations."""

    def cut(names: tuple[str, ...], used: np.ndarray) -> dict[str, np.ndarray]:
        size = bucket(int(np.nonzero(used.any(axis=0))[0].max(initial=0)) + 1, 64)
        return {name: np.asarray(getattr(batch, name))[:, :size] for name in names}

    tokens, speak = cut(_TOKENS, batch.segment_ids > 0), cut(_SPEAK, batch.speak_ids > 0)
    return replace(batch, mel=batch.mel[:, :, :0], **tokens, **speak, **cut(("unit_at",), batch.unit_at >= 0))


def true_units(batch: Batch) -> np.ndarray:
    """The units that the groups of the batch stand for, [B,Q,4], -1 = no group."""
    at = np.asarray(batch.unit_at)[..., None]
    return np.where(at >= 0, np.take_along_axis(np.asarray(batch.speak_targets), np.maximum(at, 0), axis=1), -1)


def read_units(
    model: UnifiedModel,
    listener: Listener,
    batches: Iterable[Batch],
    end_id: int,
    *,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[np.ndarray, np.ndarray]:
    """(best, true) units [n] over all units of the batches that stand for sound; the end of speech is left out.

    `done` is called with the number of rows after each batch.
    """
    best, true = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in batches:
        read = trimmed(batch)
        wanted = true_units(read)
        counted = (wanted >= 0) & (wanted < end_id)
        if counted.any():
            audio = hear(batch, listener, model)
            found = np.asarray(best_units(model, put(read, "batch"), put(audio, "batch")))
            best.append(found[counted])
            true.append(wanted[counted])
        done(len(batch.tokens))
    return np.concatenate(best), np.concatenate(true)
