"""Host memory and time of loading public weights, through the door that a run takes (`config.init.llm`).

    python tests/benchmarks/load_memory.py --gigabytes 6.5

Makes a sharded safetensors checkpoint of a Qwen3-like LLM in bfloat16, loads it in a process of its own, and deletes
it. Told is the largest memory of that process (VmHWM) less what it had before. On a CPU the arrays, float32, lie in
the same memory, so that they are taken off; on an accelerator they do not, and nothing is.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from ieat_jax.interop.containers.source import INDEX
from ieat_jax.interop.families.llm import huggingface_config, load_llm, their_shapes
from ieat_jax.model.config import LLMConfig
from ieat_jax.text.tokenizer import train_tokenizer

GIB = 2**30
# Qwen3-4B's sizes, and as many layers as are asked for.
QWEN3 = LLMConfig(
    vocab_size=151_936, width=2560, mlp_width=9728, num_layers=36, num_heads=32, num_kv_heads=8, head_dim=128,
    rope_theta=1e6, qk_norm=True, tie_embeddings=False, context_length=40_960,
)  # fmt: skip
TINY = dataclasses.replace(
    QWEN3, vocab_size=1024, width=64, mlp_width=192, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32
)


def numbers_of(sizes):
    return sum(math.prod(shape) for shape in their_shapes(sizes).values())


def sized(gigabytes):
    """The sizes of an LLM of at least so many bytes in bfloat16."""
    sizes = dataclasses.replace(QWEN3, num_layers=2)
    while 2 * numbers_of(sizes) < gigabytes * 1e9:
        sizes = dataclasses.replace(sizes, num_layers=sizes.num_layers + 1)
    return sizes


def write(folder, sizes, shard_bytes):
    """The checkpoint, its tensors written one at a time; returns the bytes of the largest shard."""
    shapes = their_shapes(sizes)
    shards, index = [{}], {}
    for name, shape in shapes.items():
        held = sum(2 * math.prod(each) for each in shards[-1].values())
        if shards[-1] and held + 2 * math.prod(shape) > shard_bytes:
            shards.append({})
        shards[-1][name] = shape
    noise = np.random.default_rng(0).normal(size=1 << 20).astype(ml_dtypes.bfloat16) * ml_dtypes.bfloat16(0.02)
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        header, at = {}, 0
        for name, shape in shard.items():
            size = 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for shape in shard.values():
                count = math.prod(shape)
                for begin in range(0, count, noise.size):
                    out.write(noise[: count - begin].tobytes())
        index |= dict.fromkeys(shard, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(huggingface_config(sizes, max_positions=sizes.context_length)))
    train_tokenizer(["I lost my keys."], 270).save(folder)
    return max(file.stat().st_size for file in folder.glob("*.safetensors"))


def status(field):
    """A figure of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def load(folder):
    """In a process of its own: the figures of one load, as JSON."""
    import jax

    from ieat_jax.config.defaults import get_defaults
    from ieat_jax.config.recipes import to_section, typed
    from ieat_jax.model.config import ModelConfig, SpeakConfig
    from ieat_jax.training.initialise import initialise

    config = get_defaults()
    config.stage = "write"
    config.init.llm, config.init.allow_new = folder, (r"listen\..*", r"emotion\..*")
    llm = load_llm(folder).config
    config.model = to_section(ModelConfig(llm=llm, speak=SpeakConfig(enabled=False, freeze_layer=0)))
    config = typed(config)
    jax.block_until_ready(jax.numpy.zeros(1) + 1)
    before, began = status("VmRSS"), time.perf_counter()
    model, _ = initialise(config, None)
    jax.block_until_ready(model)
    seconds = time.perf_counter() - began
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    platform = jax.devices()[0].platform
    print(
        json.dumps(
            {
                "platform": platform,
                "before": before,
                "peak": status("VmHWM"),
                "arrays": arrays,
                "seconds": seconds,
                "host": status("VmHWM") - before - (arrays if platform == "cpu" else 0),
            }
        )
    )


def measure(sizes, shard_bytes, parent=None):
    """Make, load and delete a checkpoint of these sizes: figures of the process, bytes of checkpoint and shard."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        largest = write(Path(folder), sizes, shard_bytes)
        total = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        done = subprocess.run(
            [sys.executable, __file__, "--load", folder], check=True, stdout=subprocess.PIPE, text=True
        )
    return json.loads(done.stdout.splitlines()[-1]) | {"total": total, "largest": largest}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--shard", type=float, default=2.0, help="gigabytes of a shard")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made; default: the temporary folder")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load(arguments.load)
        return
    sizes = sized(arguments.gigabytes)
    told = measure(sizes, arguments.shard * 1e9, arguments.folder)
    print(
        f"{told['total'] / 1e9:.1f} GB in bfloat16, largest shard {told['largest'] / GIB:.2f} GiB, {sizes.num_layers} "
        f"layers, onto {told['platform']}: {told['seconds']:.0f} s; largest memory {told['peak'] / GIB:.2f} GiB, of it "
        f"before {told['before'] / GIB:.2f}, arrays {told['arrays'] / GIB:.2f}"
        f"{' (in the same memory)' if told['platform'] == 'cpu' else ' (elsewhere)'}; so the host held "
        f"{told['host'] / GIB:.2f} GiB beside them, allowed {told['largest'] / GIB + 1:.2f}"
    )


if __name__ == "__main__":
    main()
