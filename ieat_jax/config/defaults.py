"""Every field of a run's configuration with its default: recipes start from here and set what differs."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from ieat_jax.config.recipes import normal
from ieat_jax.model.config import ModelConfig


def get_defaults() -> ConfigDict:
    """A complete configuration. It trains nothing by itself: it names no data."""
    config = ConfigDict()
    config.stage = "align"  # 'write': text warm-up of an LLM from scratch | 'align' | 'joint'
    config.seed = 0  # of initialisation, data order and every random choice in the data
    config.model = ConfigDict(dataclasses.asdict(ModelConfig()))

    config.chat = ConfigDict()
    config.chat.thinks = True  # answers begin with a think block
    config.chat.system_text = "You are a helpful assistant."  # of Think and Write
    config.chat.speech_system_text = "You are a helpful assistant."  # of Speak

    config.tokenizer = ConfigDict()
    config.tokenizer.path = ""  # folder, tokenizer.json or .model; '' = that of init.llm or init.checkpoint
    config.tokenizer.rename = ()  # ((reserved token, new name), ...): control tokens for a base that has none

    config.codec = ""  # unit codec (folder or .onnx) of a run that speaks; '' = that of init.checkpoint, or none

    config.init = ConfigDict()
    config.init.checkpoint = ""  # run folder of an earlier stage, which gives every parameter that has the same name
    config.init.llm = ""  # LLM weights: package:NAME, gguf:FILE or a Hugging Face folder
    config.init.whisper = ""  # Whisper weights: package:NAME or a Hugging Face folder
    config.init.allow_new = ()  # regexes of parameters that may start from random numbers although weights are loaded
    config.init.speak_from_write = True  # a new Speak starts as a copy of Write's layers

    config.data = ConfigDict()
    config.data.sources = ConfigDict()  # NAME = source(...): the mixture
    config.data.batch_size = 8  # rows of a step, over all devices and micro-batches
    config.data.pack = 1  # dialogues that share a row, as far as they fit
    config.data.balance = 0.0  # 0 = emotions as often as they occur, 1 = about equally often, by repeating records
    config.data.privileged = True  # text readers (the teacher, stage write) are told what the user feels and why
    config.data.max_bad_share = 0.02  # a run stops when more than this share of its records is bad
    config.data.read_threads = 2  # threads that read ahead
    config.data.read_ahead = 4  # batches that they may be ahead
    config.data.shapes = ConfigDict()  # size of a row; a dialogue that is longer keeps its first turns
    config.data.shapes.tokens = 256  # tokens
    config.data.shapes.clips = 2  # clips
    config.data.shapes.targets = 128  # supervised tokens
    config.data.shapes.answers = 2  # answers
    config.data.shapes.teacher_tokens = 256  # tokens of the teacher's stream (stage align)
    config.data.shapes.speak = 256  # positions of Speak (runs that speak)
    config.data.shapes.groups = 128  # groups of units among them
    config.data.injection = ConfigDict()
    config.data.injection.mode = "schedule"  # or always 'explicit' | 'partial' | 'empty' | 'teacher_only' | 'none'
    config.data.injection.start = 0.8  # schedule: share of explicit thinking at first
    config.data.injection.floor = 0.1  # schedule: share that stays, so that thinking can still be switched on
    config.data.injection.decay_examples = 100_000  # schedule: examples from start to floor
    config.data.injection.partial = 0.5  # schedule: of the rest, the share that keeps some segments
    config.data.injection.jitter = 1.0  # schedule: mean of the exponential jitter on removed segments
    config.data.injection.segments = ("perceive", "state", "trajectory", "cause", "plan")  # that thinking is made of

    config.objective = ConfigDict()  # a factor of 0 switches a loss off
    config.objective.ce = 1.0  # CE of thinking and response
    config.objective.kl = 1.0  # align: KL to the teacher on the response
    config.objective.eot = 1.0  # align: KL to the teacher at the end of turn
    config.objective.attribute = 0.1  # CE of the user's emotion from pooled audio states
    config.objective.units = 1.0  # joint: CE of the units
    config.objective.internalise = 0.0  # joint: KL of the answer with thinking to that with an empty think block
    config.objective.internalise_units = 0.0  # joint: the same for the unit heads
    config.objective.consistency = 0.1  # joint: text and speech of an answer show the same style
    config.objective.kl_think = 0.0  # align: weight of thinking tokens in `kl`
    config.objective.temperature = 2.0  # of every KL
    config.objective.format_weight = 1.0  # CE weight of the tokens that close the thinking
    config.objective.segment_weights = ConfigDict(  # CE weights inside the thinking; 0 = read, but not supervised
        {"perceive": 1.0, "state": 1.0, "trajectory": 1.0, "cause": 1.0, "plan": 1.0}
    )
    config.objective.chunk = 256  # positions of a row whose vocabulary logits a device holds at a time

    config.optimizer = ConfigDict()
    config.optimizer.rules = ((".*", 1.0),)  # (regex of parameter names, learning-rate factor or None = frozen)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"  # 'constant' | 'cosine' | 'linear'
    config.optimizer.warmup_steps = 20
    config.optimizer.final_fraction = 0.1  # learning rate at the end, as a share of its peak
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.95
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.0
    config.optimizer.no_decay = r".*(norm\.scale|bias|embed|positions|mix)"  # regex of parameters without weight decay
    config.optimizer.clip_norm = 1.0  # global gradient norm; 0 = no clipping
    config.optimizer.max_bad_steps = 3  # the run stops after as many steps in a row with a non-finite gradient

    config.train = ConfigDict()
    config.train.steps = 100  # optimiser updates
    config.train.accumulate = 1  # micro-batches of a step, as exact as one large batch
    config.train.log_every = 10  # steps
    config.train.compiler_options = ()  # of XLA for the step, such as ("xla_tpu_scoped_vmem_limit_kib=98304",)

    config.mesh = ConfigDict()  # sizes of the mesh axes; one may be -1 = the rest
    config.mesh.replica = 1
    config.mesh.fsdp = -1
    config.mesh.context = 1
    config.mesh.tensor = 1

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 200  # steps; the last step is always saved
    config.checkpoint.keep = 2  # newest checkpoints that are kept
    config.checkpoint.initial = False  # also save step 0, the model before training
    config.checkpoint.allow_changes = False  # resume although config or data differ from those the run began with
    return normal(config)


def source(records: str, *, audio_root: str = "", weight: float = 1.0) -> ConfigDict:
    """An entry of `config.data.sources`: a JSONL file, the folder its audio paths start from ('' = the file's own)."""
    return ConfigDict({"records": records, "audio_root": audio_root, "weight": weight})
