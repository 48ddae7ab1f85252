"""The quick start: all three stages on the demo corpus, from a text warm-up to a model that listens and speaks.

    python -m ieat_jax.train --config configs/demo.py:write --workdir runs/demo/write
    python -m ieat_jax.train --config configs/demo.py:align --workdir runs/demo/align
    python -m ieat_jax.train --config configs/demo.py:joint --workdir runs/demo/joint

`launch/quickstart.sh` makes the corpus, tokenizer, codec and units that these read, and runs them.
"""

from pathlib import Path

from ieat_jax.config.defaults import get_defaults, source
from ieat_jax.config.recipes import ConfigError, load_model, to_section

STAGES = ("write", "align", "joint")
DATA, RUNS = "runs/demo/data", "runs/demo"


def get_config(arg="align"):
    """Return the configuration of stage `arg`: write, align or joint."""
    if arg not in STAGES:
        raise ConfigError(f"configs/demo.py:{arg}: the stage is one of {', '.join(STAGES)}")
    config = get_defaults()
    config.stage = arg
    config.chat.system_text = "You are kind."
    config.chat.speech_system_text = "You speak."
    config.tokenizer.path = f"{DATA}/tokenizer"
    config.model = to_section(load_model(Path(__file__).parent / "models", "tiny"))
    config.model.speak.enabled = arg == "joint"
    config.data.injection.start = 0.9
    config.data.injection.partial = 0.0
    config.data.batch_size = 16
    config.data.pack = 2
    config.data.shapes.tokens = 216
    config.data.shapes.clips = 2
    config.data.shapes.targets = 132
    config.data.shapes.answers = 2
    config.data.shapes.teacher_tokens = 240
    config.data.shapes.speak = 240
    config.data.shapes.groups = 84
    config.checkpoint.every = 1000
    {"write": _write, "align": _align, "joint": _joint}[arg](config)
    return config


def _write(config):
    """Text in, thinking and reply out: an LLM of our own has to know its language before it can teach."""
    config.data.sources.text = source(f"{DATA}/corpus/text.jsonl")
    config.data.sources.dialogues = source(f"{DATA}/corpus/train.jsonl", weight=2.0)
    config.data.injection.floor = 0.7
    config.data.injection.decay_examples = 4000
    config.train.steps = 140
    config.optimizer.learning_rate = 3e-3
    config.optimizer.rules = ((r"(think|write)\..*", 1.0), (".*", None))


def _align(config):
    """Speech in: the adapter and LoRA learn from the LLM that reads the transcript and what is felt."""
    config.init.checkpoint = f"{RUNS}/write"
    config.init.whisper = "package:whisper-tiny.en"
    config.init.allow_new = (r".*\.lora_[ab]", r"listen\.(adapter|mix|norm).*", r"emotion\..*")
    config.data.sources.dialogues = source(f"{DATA}/corpus/train.jsonl")
    config.data.injection.floor = 0.7
    config.data.injection.decay_examples = 2000
    config.model.lora.rank = 16
    config.model.lora.alpha = 32.0
    config.objective.attribute = 0.5
    config.objective.kl_think = 0.5
    config.data.batch_size = 8
    config.train.steps = 140
    config.optimizer.learning_rate = 2e-3
    config.optimizer.rules = (
        (r"listen\.(adapter|mix|norm).*", 1.0),
        (r"emotion\.attribute.*", 1.0),
        (r".*\.lora_[ab]", 1.0),
        (".*", None),
    )
    config.checkpoint.initial = True


def _joint(config):
    """Speech in and out: Write, Speak and the adapter train together; Think stays."""
    config.init.checkpoint = f"{RUNS}/align"
    config.init.allow_new = (r"speak\..*", r"emotion\.style.*")
    config.codec = f"{DATA}/codec"
    config.data.sources.dialogues = source(f"{DATA}/units/train.jsonl", audio_root=f"{DATA}/corpus")
    config.data.injection.floor = 0.3
    config.data.injection.decay_examples = 1500
    config.objective.internalise = 0.5
    config.objective.attribute = 0.0
    config.data.batch_size = 8
    config.data.shapes.tokens = 256
    config.data.shapes.targets = 164
    config.train.steps = 110
    config.optimizer.learning_rate = 2e-3
    config.optimizer.rules = (
        (r"listen\.(adapter|mix|norm).*", 0.3),
        (r"write\..*", 0.3),
        (r"speak\..*", 1.0),
        (r"emotion\.style.*", 1.0),
        (".*", None),
    )
    config.checkpoint.initial = True
