import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ieat_jax.errors import UserError
from ieat_jax.inference.sampling import Sampling, UnitSampling, keep_nucleus, row_keys, sample_text, sample_units


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    kept = lambda k, p: np.isfinite(np.asarray(keep_nucleus(logits, k, p)))[0].tolist()  # noqa: E731
    assert kept(0, 0.75) == [True, True, False, False]
    assert kept(0, 0.81) == [True, True, True, False]
    assert kept(1, 1.0) == [True, False, False, False]
    assert kept(0, 1e-6) == [True, False, False, False]
    assert kept(99, 1.0) == [True] * 4


def test_text_sampling_agrees_with_transformers_processors():
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as hf

    logits = np.random.default_rng(0).normal(size=(1, 50)).astype(np.float32) * 3
    ids = torch.tensor([[3, 7, 7, 11]])
    scores = torch.tensor(logits)
    for process in (
        hf.RepetitionPenaltyLogitsProcessor(1.3),
        hf.TemperatureLogitsWarper(0.9),
        hf.TopKLogitsWarper(20),
        hf.TopPLogitsWarper(0.7),
    ):
        scores = process(ids, scores)
    allowed = set(np.flatnonzero(np.isfinite(scores.numpy()[0])).tolist())
    seen = jnp.zeros((1, 50), bool).at[0, jnp.array([3, 7, 11])].set(True)
    sampling = Sampling(temperature=0.9, top_k=20, top_p=0.7, repetition_penalty=1.3)
    keys = row_keys(0, jnp.arange(2000))
    drawn = sample_text(keys, jnp.repeat(jnp.asarray(logits), 2000, 0), jnp.repeat(seen, 2000, 0), sampling)
    assert set(np.asarray(drawn).tolist()) == allowed
    share = np.bincount(np.asarray(drawn), minlength=50) / 2000
    np.testing.assert_allclose(share, torch.softmax(scores, -1).numpy()[0], atol=0.05)


def test_a_row_draws_the_same_whatever_stands_beside_it():
    logits = jax.random.normal(jax.random.key(1), (4, 30))
    sampling = Sampling(temperature=1.0)
    together = sample_text(row_keys(5, jnp.arange(4)), logits, None, sampling)
    alone = [int(sample_text(row_keys(5, jnp.array([i])), logits[i : i + 1], None, sampling)[0]) for i in range(4)]
    assert together.tolist() == alone


def _logits(best, size=12):
    return jnp.full((len(best), size), -5.0).at[jnp.arange(len(best)), jnp.array(best)].set(5.0)[None]


def test_units_before_the_end_of_an_unfinished_group_are_kept():
    recent = jnp.full((1, 10), -1)
    group, ended, _ = sample_units(row_keys(0, jnp.arange(1)), _logits([3, 4, 10, 5]), recent, 10, UnitSampling())
    assert group.tolist() == [[3, 4, -1, -1]]
    assert bool(ended[0])
    group, ended, _ = sample_units(row_keys(0, jnp.arange(1)), _logits([3, 4, 6, 5]), recent, 10, UnitSampling())
    assert group.tolist() == [[3, 4, 6, 5]]
    assert not bool(ended[0])


def test_repetition_aware_sampling_leaves_the_nucleus_when_a_unit_repeats():
    logits = jnp.log(jnp.array([0.6, 0.4] + [1e-9] * 10))[None, None].repeat(4, 1)
    logits = logits.at[:, :, 1].set(logits[:, :, 1])
    sampling = UnitSampling(temperature=1.0, top_k=1, top_p=1.0, window=10)
    plain = UnitSampling(temperature=1.0, top_k=1, top_p=1.0, window=0)
    many = row_keys(0, jnp.arange(300))
    rows = jnp.repeat(logits, 300, 0)
    without, _, _ = sample_units(many, rows, jnp.full((300, 10), -1), 10, plain)
    assert set(np.unique(without)) == {0}
    group, _, _ = sample_units(many, rows, jnp.full((300, 10), -1), 10, sampling)
    assert set(np.unique(group[:, 0])) == {0}
    assert set(np.unique(group[:, 1])) == {0, 1}  # 0 is in the window now: drawn again from the full distribution
    assert 0.3 < float((group[:, 1] == 1).mean()) < 0.5


def cosyvoice_nucleus(logits, top_p, top_k):
    """What CosyVoice's `nucleus_sampling` draws from, in its own words: probabilities [U]."""
    mass = np.exp(logits - logits.max())
    mass = mass / mass.sum()
    chosen, total = [], 0.0
    for unit in np.argsort(-mass, kind="stable"):
        if total >= top_p or len(chosen) >= top_k:
            break
        total += mass[unit]
        chosen.append(unit)
    kept = np.zeros_like(mass)
    kept[chosen] = mass[chosen]
    return kept / kept.sum()


UNITS = 60
FLAT = np.zeros(UNITS)  # all are equal
PEAKED = np.where(np.arange(UNITS) < 3, 6.0, 0.0)
SPREAD = np.random.default_rng(3).normal(size=UNITS)


@pytest.mark.parametrize("logits", [FLAT, PEAKED, SPREAD, 3 * SPREAD], ids=["flat", "peaked", "spread", "steep"])
@pytest.mark.parametrize(("top_k", "top_p"), [(25, 0.8), (5, 0.3), (5, 0.8), (25, 0.99), (40, 0.46)])
def test_units_are_drawn_from_the_nucleus_that_the_official_decoder_draws_from(logits, top_k, top_p):
    draws = 3000
    sampling = UnitSampling(temperature=1.0, top_k=top_k, top_p=top_p, window=0)
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (draws, 4, UNITS))
    recent = jnp.zeros((draws, 0), jnp.int32)
    group, _, _ = sample_units(row_keys(0, jnp.arange(draws)), rows, recent, UNITS, sampling)
    wanted = cosyvoice_nucleus(logits, top_p, top_k)
    share = np.bincount(np.asarray(group).reshape(-1), minlength=UNITS) / group.size
    assert set(np.flatnonzero(share)) == set(np.flatnonzero(wanted))
    np.testing.assert_allclose(share, wanted, atol=0.02)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Sampling(temperature=-1), "temperature is -1"),
        (lambda: Sampling(top_p=0), r"top_p is 0; it must be in \(0, 1\]"),
        (lambda: UnitSampling(window=-2), "unit window is -2"),
    ],
)
def test_bad_sampling_is_an_error_for_people(make, text):
    with pytest.raises(UserError, match=text):
        make()
