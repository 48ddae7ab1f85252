"""Stage `align` for large models: the LLM stays as it is, and teaches Listen by what it says about the transcript.

    python -m ieat_jax.train --config configs/align.py:goat_8b,v5e-256 --workdir runs/align
    python -m ieat_jax.compile_check --config configs/align.py:goat_8b,v5e-256 --topology v5e:16x16

The argument is MODEL[,MACHINE]: a file of configs/models, and v5e-256, v5p-128, v6e-256 or 8xH100 (without one: all
devices that there are, and config.data.batch_size rows). Data and weights are read from data/ and weights/ unless
overridden, e.g. --config.data.sources.train.records=/mnt/corpus/train.jsonl --config.init.llm=/mnt/Qwen3-8B.
Loss factors, learning rate and rows are ours: the paper does not give its own.
"""

from pathlib import Path

from ieat_jax.config.defaults import get_defaults, source
from ieat_jax.config.machines import use_machine
from ieat_jax.config.recipes import load_model

MODELS = Path(__file__).parent / "models"


def get_config(arg="smollm2_135m"):
    """Return the configuration of MODEL[,MACHINE]."""
    name, _, machine = arg.partition(",")
    config = get_defaults()
    config.stage = "align"
    use_machine(config, load_model(MODELS, name), machine)
    config.model.speak.enabled = False  # it begins in stage `joint`
    config.init.llm = f"weights/{name}/llm"
    config.init.whisper = f"weights/{name}/whisper"
    config.init.allow_new = (r"listen\.(mix|adapter|norm).*", r"emotion\..*")
    config.data.sources.train = source("data/train.jsonl")
    # Clips share one encoder window and see themselves alone: a window of 30 s for each would be 82 % padding. GOAT-SLM
    # and Whisper have windows that see their padding; for exports as those: padding = "heard", shapes.frames = 0.
    config.model.listen.padding = "masked"
    # Over half of the run: a row holds about 6 dialogues of RECCON's length.
    config.data.injection.decay_examples = 10_000 * 6 * config.data.batch_size
    config.data.pack = 64
    # As `prepare shapes` finds them for RECCON's lengths, so that no size starves the others.
    config.data.shapes.tokens = 4096
    config.data.shapes.clips = 36
    config.data.shapes.frames = 20_480
    config.data.shapes.targets = 2304
    config.data.shapes.answers = 36
    config.data.shapes.teacher_tokens = 4736
    # Threads of one interpreter cannot feed a host's chips: tests/benchmarks/data_pipeline.py.
    config.data.read_workers = 16
    config.data.read_threads = 1
    config.data.read_ahead = 32
    config.objective.kl_think = 0.5
    config.objective.chunk = 512
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.rules = (
        (r"listen\.(mix|adapter|norm).*", 1.0),
        (r"emotion\.attribute.*", 1.0),
        (".*", None),
    )
    config.train.steps = 20_000
    config.checkpoint.every = 500
    return config
