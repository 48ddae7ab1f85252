import pytest

from ieat_jax.config.defaults import get_defaults
from ieat_jax.config.recipes import typed


@pytest.fixture
def settings():
    """`config.objective` with every loss switched on."""
    config = get_defaults()
    objective = config.objective
    objective.internalise = objective.internalise_units = 0.5
    objective.kl_think = 0.3
    objective.chunk = 32
    objective.segment_weights.state = 2.0
    return typed(config).objective
