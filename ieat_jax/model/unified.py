"""The unified model: Listen, Think, Write, Speak and the emotion heads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ieat_jax.model.config import ModelConfig
from ieat_jax.model.layers import Linear
from ieat_jax.model.listen import Listen
from ieat_jax.model.llm import Think, Write
from ieat_jax.model.lora import add_lora
from ieat_jax.model.sharding import Divided, check_divides
from ieat_jax.model.speak import Speak

NUM_STYLES = 9  # of a response: STYLES of data/labels.py


class EmotionHeads(nnx.Module):
    """Linear classifiers over states: the user's emotion, and the style of a response."""

    def __init__(self, width: int, num_emotions: int, key: jax.Array):
        attribute, style = jax.random.split(key)
        self.attribute = Linear(width, num_emotions, attribute, bias=True)
        self.style = Linear(width, NUM_STYLES, style, bias=True)


class UnifiedModel(nnx.Module):
    """Speech and text in, text and units out. A pytree: use it with plain `jax.jit`, `jax.grad`, `jax.tree.map`."""

    def __init__(self, config: ModelConfig, key: jax.Array):
        keys = jax.random.split(key, 5)
        self.config = config
        self.listen = Listen(config, keys[0])
        self.think = Think(config, keys[1])
        self.write = Write(config, keys[2])
        self.speak = Speak(config, keys[3]) if config.speak.enabled else None
        self.emotion = EmotionHeads(config.llm.width, config.num_emotions, keys[4])

    def write_head(self) -> Divided:
        """The LM head: [D, V], or the embedding [V, D] where it is tied."""
        dtype = jnp.dtype(self.config.dtype)
        if self.write.head is None:
            return Divided(self.think.embed.get_value(), ("vocab", "embed"), dtype)
        return Divided(self.write.head.get_value(), ("embed", "vocab"), dtype)

    def text_logits(self, x: jax.Array, head: jax.Array | None = None) -> jax.Array:
        """Write's states [..., D] -> float32 [..., V]; `head`: `write_head()` gathered, for several calls."""
        head = self.write_head().gather() if head is None else head
        product = "...d,vd->...v" if self.write.head is None else "...d,dv->...v"
        return jnp.einsum(product, x, head, preferred_element_type=jnp.float32)


def build_model(config: ModelConfig, key: jax.Array) -> UnifiedModel:
    """A model with random parameters, laid over the mesh in use; works under `jax.jit` and `jax.eval_shape`.

    Raises:
        ShardingError: a size does not divide over the mesh.
        ModelConfigError: `config.lora.pattern` matches no layer.
    """
    check_sizes(config)
    model_key, lora_key = jax.random.split(key)
    model = UnifiedModel(config, model_key)
    return add_lora(model, config.lora, lora_key) if config.lora.rank else model


def check_sizes(config: ModelConfig) -> None:
    """Raise a ShardingError naming parameter, dimension and config field if a size does not divide over the mesh."""
    llm, encoder, adapter = config.llm, config.listen.encoder, config.listen.adapter
    rows = [
        (llm.width, "embed", "think.embed", "llm.width"),
        (llm.vocab_size, "vocab", "think.embed", "llm.vocab_size"),
        (llm.num_heads, "heads", "think.layers.attention.q.kernel", "llm.num_heads"),
        (llm.num_kv_heads, "kv_heads", "think.layers.attention.k.kernel", "llm.num_kv_heads"),
        (llm.mlp_width, "mlp", "think.layers.mlp.up.kernel", "llm.mlp_width"),
        (encoder.width, "embed", "listen.encoder.layers.attention.q.kernel", "listen.encoder.width"),
        (encoder.num_heads, "heads", "listen.encoder.layers.attention.q.kernel", "listen.encoder.num_heads"),
        (encoder.mlp_width, "mlp", "listen.encoder.layers.mlp.up.kernel", "listen.encoder.mlp_width"),
    ]
    if adapter.kind == "goat":
        rows += [
            (adapter.num_heads, "heads", "listen.adapter.layers.attention.q.kernel", "listen.adapter.num_heads"),
            (
                adapter.num_kv_heads,
                "kv_heads",
                "listen.adapter.layers.attention.k.kernel",
                "listen.adapter.num_kv_heads",
            ),
            (adapter.mlp_width, "mlp", "listen.adapter.layers.mlp.up.kernel", "listen.adapter.mlp_width"),
        ]
    for size, axis, parameter, field in rows:
        check_divides(size, axis, parameter, f"config.model.{field}")
