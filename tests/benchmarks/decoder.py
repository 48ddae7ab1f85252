"""One train step (forward, backward, AdamW) of our decoder against Hugging Face's in PyTorch, same shape, on this CPU.

    python tests/benchmarks/decoder.py                                         # 24 M parameters, 8 x 512 tokens
    python tests/benchmarks/decoder.py --width 576 --layers 30 --heads 9 --kv-heads 3 --mlp 1536 --vocab 49152 \
        --rows 4 --tokens 256                                                  # SmolLM2-135M

Runs alternate, so that what else the machine does hits both alike; the ratio is of medians. Peak memory is that of a
process of its own for each. float32. Close other programs first.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = dict(width=256, layers=8, heads=4, kv_heads=2, mlp=768, vocab=32000, rows=8, tokens=512, runs=7, threads=2)
    for name, value in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--remat", default="none", help="config.model.remat of ours")
    parser.add_argument("--only", choices=("ours", "torch"), help="run one alone and print its peak memory")
    return parser.parse_args()


def token_ids(sizes):
    import numpy as np

    return np.random.default_rng(0).integers(0, sizes.vocab, (sizes.rows, sizes.tokens)).astype(np.int32)


def make_torch(sizes):
    """A function that takes one step and waits for it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(sizes.threads)
    config = LlamaConfig(
        vocab_size=sizes.vocab,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.width // sizes.heads,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.from_numpy(token_ids(sizes)).long()

    def step():
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def make_ours(sizes):
    """The step that `ieat_jax.train` takes in stage `write`, with every token supervised."""
    import dataclasses

    import jax
    import numpy as np

    from ieat_jax.config.defaults import get_defaults
    from ieat_jax.config.recipes import to_section, typed
    from ieat_jax.data.arrays import empty_row
    from ieat_jax.data.batch import RESPONSE, stack
    from ieat_jax.model.config import LLMConfig, ModelConfig, SpeakConfig
    from ieat_jax.model.partition import split
    from ieat_jax.model.sharding import make_mesh
    from ieat_jax.model.unified import build_model
    from ieat_jax.objectives.stages import make_objective
    from ieat_jax.training.optimizer import init_state, make_optimizer
    from ieat_jax.training.placement import put_batch
    from ieat_jax.training.rows import layout_options, row_shapes
    from ieat_jax.training.step import TrainState, make_step

    config = get_defaults()
    config.stage = "write"
    llm = LLMConfig(
        vocab_size=sizes.vocab,
        width=sizes.width,
        mlp_width=sizes.mlp,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads,
        head_dim=sizes.width // sizes.heads,
    )
    model = ModelConfig(llm=llm, speak=SpeakConfig(enabled=False, freeze_layer=0), remat=sizes.remat)
    config.model = to_section(model)
    config.data.shapes.tokens = config.data.shapes.targets = sizes.tokens
    config.optimizer.rules = ((r"(think|write)\..*", 1.0), (".*", None))
    row = empty_row(row_shapes(config, layout_options(config, unit_end=None)), frames=0, mels=80)
    places, ones = np.arange(sizes.tokens, dtype=np.int32), np.ones(sizes.tokens, np.int32)
    rows = [
        dataclasses.replace(
            row,
            tokens=ids,
            positions=places,
            segment_ids=ones,
            target_at=places,
            target_ids=np.roll(ids, -1),
            target_kind=ones * RESPONSE,
        )
        for ids in token_ids(sizes)
    ]
    config = typed(config)
    objective, factors = make_objective(config)
    jax.set_mesh(make_mesh(config.mesh))
    built = jax.jit(lambda key: build_model(model, key))(jax.random.key(0))
    trainable, frozen = split(built, config.optimizer.rules)
    optimizer, _ = make_optimizer(config.optimizer, 1000, trainable)
    function = make_step(built, objective, factors, optimizer)
    batch, state = put_batch(stack(rows)), TrainState(trainable, init_state(optimizer, trainable))

    def step():
        nonlocal state
        state, metrics = function(state, frozen, batch)
        return float(metrics["loss"])

    return step


def timed(step):
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def peak_rss_gib():
    """Of this process. Not `ru_maxrss`: that begins with what the parent had when it forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def peak_gib(name):
    """Of a process that takes a few steps."""
    command = [sys.executable, *sys.argv, "--only", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main():
    sizes = parse()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("OMP_NUM_THREADS", str(sizes.threads))
    makers = {"ours": make_ours, "torch": make_torch}
    if sizes.only:
        step = makers[sizes.only](sizes)
        for _ in range(3):
            step()
        print(peak_rss_gib())
        return
    steps = {name: make(sizes) for name, make in makers.items()}
    losses = {name: step() for name, step in steps.items()}  # compilation; both begin near log(vocabulary)
    seconds = {name: [] for name in steps}
    for _ in range(sizes.runs):
        for name, step in steps.items():
            seconds[name].append(timed(step))
    tokens = sizes.rows * sizes.tokens
    print(f"{'':8}{'first loss':>12}{'step, s':>10}{'tokens/s':>10}{'peak, GiB':>11}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:8}{losses[name]:12.2f}{median:10.3f}{tokens / median:10.0f}{peak_gib(name):11.2f}")
    ratio = statistics.median(seconds["ours"]) / statistics.median(seconds["torch"])
    print(f"step time, ours / torch: {ratio:.2f} (median of {sizes.runs} alternating runs)")


if __name__ == "__main__":
    main()
