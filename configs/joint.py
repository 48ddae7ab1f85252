"""Stage `joint` for large models: text and speech are optimised together, from Listen's adapter to Speak's unit heads.

    python -m ieat_jax.train --config configs/joint.py:goat_8b,v5e-256 --workdir runs/joint
    python -m ieat_jax.compile_check --config configs/joint.py:goat_8b,v5e-256 --topology v5e:16x16

The argument is MODEL[,MACHINE], as of configs/align.py, whose run (runs/align) it begins from. Units are CosyVoice
tokens: `prepare units --codec data/speech_tokenizer_v1.onnx` extracts them. Loss factors, learning rates and rows are
ours: the paper does not give its own.
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
    config.stage = "joint"
    use_machine(config, load_model(MODELS, name), machine)
    config.init.checkpoint = "runs/align"
    config.init.allow_new = (r"speak\..*", r"emotion\.style.*")
    config.codec = "data/speech_tokenizer_v1.onnx"
    config.data.sources.train = source("data/units/train.jsonl")
    config.data.injection.floor = 0.3
    config.model.listen.padding = "masked"  # and clips share a window, as in stage align
    # Over half of the run: a row holds about 5 dialogues of RECCON's length.
    config.data.injection.decay_examples = 10_000 * 5 * config.data.batch_size
    config.data.pack = 64
    # As `prepare shapes` finds them for RECCON's lengths, so that no size starves the others.
    config.data.shapes.tokens = 4096
    config.data.shapes.clips = 31
    config.data.shapes.frames = 17_536
    config.data.shapes.targets = 2304
    config.data.shapes.answers = 31
    config.data.shapes.speak = 4352
    config.data.shapes.groups = 1088
    # Threads of one interpreter cannot feed a host's chips: tests/benchmarks/data_pipeline.py.
    config.data.read_workers = 16
    config.data.read_threads = 1
    config.data.read_ahead = 32
    config.objective.internalise = 0.5
    config.objective.attribute = 0.0
    config.objective.chunk = 512
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_steps = 500
    config.optimizer.weight_decay = 0.1
    config.optimizer.rules = (
        (r"listen\.encoder.*", None),
        (r"emotion\.attribute.*", None),
        (r"speak\..*", 4.0),
        (".*", 1.0),
    )
    config.train.steps = 20_000
    config.checkpoint.every = 500
    return config
