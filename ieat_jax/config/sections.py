"""Every field of a run's configuration: its default, what it may hold, and what it does.

Recipes begin from `get_defaults()` (`config/defaults.py`), which is made from these. The model's sections stand in
`model/config.py`, and that of the chat format in `text/chat.py`,
since both lie below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ieat_jax.errors import ConfigError
from ieat_jax.model.config import ModelConfig
from ieat_jax.ranges import Section, flag, is_regex, number, one_of, regex, section, text, tuple_of
from ieat_jax.text.chat import ChatConfig

SEGMENTS = ("perceive", "state", "trajectory", "cause", "plan")  # of a think block, in order
SOME_SEGMENTS = f"one or more of {', '.join(SEGMENTS)}; for no thinking at all set mode = 'empty'"
INJECTION_MODES = ("explicit", "partial", "empty", "teacher_only", "none")
SCHEDULES = ("constant", "cosine", "linear")
SOME_RULES = "pairs (regular expression, multiplier above 0, or None = frozen)"
Rules = tuple[tuple[str, float | None], ...]


def _is_rule(rule: Any) -> bool:
    if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str) and is_regex(rule[0])):
        return False
    return rule[1] is None or (type(rule[1]) in (int, float) and 0 < rule[1] < float("inf"))


def _is_renaming(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(name, str) and name for name in pair)


def _is_loss(pair: Any) -> bool:
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
        return False
    path, _, name = pair[0].rpartition(":")
    return (
        path.endswith(".py") and name.isidentifier() and type(pair[1]) in (int, float) and 0 <= pair[1] < float("inf")
    )


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name.strip())


def _is_option(line: Any) -> bool:
    return isinstance(line, str) and all(part.strip() for part in line.partition("="))


@dataclasses.dataclass(frozen=True)
class TokenizerConfig(Section):
    """Which tokenizer a run has."""

    AT: ClassVar[str] = "config.tokenizer"
    path: str = text()  # folder, tokenizer.json or .model; '' = that of init.llm or init.checkpoint
    # ((reserved token, new name), ...): control tokens for a base that has none
    rename: tuple[tuple[str, str], ...] = tuple_of((), "pairs (reserved token, new name)", _is_renaming)


@dataclasses.dataclass(frozen=True)
class InitConfig(Section):
    """Where a run's first parameters come from."""

    AT: ClassVar[str] = "config.init"
    # an earlier run, or an export of one (hf:ORG/NAME@REVISION, too): gives every parameter that has the same name
    checkpoint: str = text()
    llm: str = text()  # LLM weights: package:NAME, gguf:FILE, hf:ORG/NAME@REVISION or a Hugging Face folder
    # Whisper weights: package:NAME, ctranslate2:FILE, hf:ORG/NAME@REVISION or such a folder, perhaps with an adapter
    whisper: str = text()
    # Speak's weights: folder or hf:ORG/NAME@REVISION of a GOAT-SLM; '' = those of init.checkpoint, or a copy of Write's
    speak: str = text()
    # regexes of parameters that may start from random numbers although weights are loaded
    allow_new: tuple[str, ...] = tuple_of((), "regular expressions", is_regex)
    speak_from_write: bool = flag(True)  # a new Speak starts as a copy of Write's layers


@dataclasses.dataclass(frozen=True)
class FeaturesConfig(Section):
    """Which features of a data set of TFDS make a record: NAME, or NAME/INNER; =TEXT is the same text for all.

    Without any, the data set is one of `prepare tfds`.
    """

    AT: ClassVar[str] = "config.data.sources.NAME.features"
    audio: str = text()  # what the user says: the bytes of a sound file, or numbers
    rate: int = number(0, least=8000, most=192_000, also=(0,))  # numbers of `audio` in a second; 0 = as it says itself
    words: str = text()  # of it
    reply: str = text()  # in words
    emotion: str = text()
    intensity: str = text()
    style: str = text()  # of the reply
    cause: str = text()  # why the user feels so
    id: str = text()  # of the dialogue; '' = NAME-1, NAME-2, ..
    language: str = text()  # such as '=en'
    speaker: str = text()
    turns: str = text()  # the sequence that the turns of a dialogue are in; '' = an example is one turn


@dataclasses.dataclass(frozen=True)
class SourceConfig(Section):
    """One source of the mixture."""

    AT: ClassVar[str] = "config.data.sources.NAME"
    records: str = text()  # JSONL file, folder of `prepare shards`, or tfds:NAME:VERSION[SPLIT] or tfds:FOLDER[SPLIT]
    audio_root: str = text()  # folder that its audio paths start from; '' = the file's own
    weight: float = number(1.0, least=0)  # its share of the dialogues, whatever its size; 0 leaves the source out
    features: FeaturesConfig = section(FeaturesConfig)  # of TFDS


@dataclasses.dataclass(frozen=True)
class Shapes(Section):
    """Sizes of a row: every batch has the same, so that one program is compiled. Longer dialogues take several rows."""

    AT: ClassVar[str] = "config.data.shapes"
    tokens: int = number(256, least=1)  # T, tokens
    clips: int = number(2, least=0)  # C, clips; 0 = none
    targets: int = number(128, least=1)  # R, supervised tokens
    answers: int = number(2, least=1)  # K, answers
    teacher_tokens: int = number(256, least=0)  # L, tokens of the teacher's stream (stage align); 0 = no such stream
    speak: int = number(256, least=0)  # S, positions of Speak (runs that speak); 0 = no speech
    groups: int = number(128, least=0)  # Q, groups of units among them
    # F, log-mel frames (100 a second) of one window that all clips of a row share; 0 = each has a window of its own
    frames: int = number(0, least=0)


@dataclasses.dataclass(frozen=True)
class InjectionConfig(Section):
    """When examples show their thinking.

    In mode 'schedule' the chance of full thinking falls from `start` to `floor` along half a cosine over
    `decay_examples` examples. Of the rest, the share `partial` shows thinking with segments removed from the left, ever
    more of them as the schedule proceeds, plus an exponential jitter of mean `jitter`; the others have an empty block.
    Any other mode holds for every example.
    """

    AT: ClassVar[str] = "config.data.injection"
    mode: str = one_of("schedule", ("schedule", *INJECTION_MODES))
    start: float = number(0.8, least=0, most=1)  # schedule: share of explicit thinking at first
    floor: float = number(0.1, least=0, most=1)  # schedule: share that stays: thinking can still be switched on
    decay_examples: int = number(100_000, least=1)  # schedule: trained dialogues from start to floor
    partial: float = number(0.5, least=0, most=1)  # schedule: of the rest, the share that keeps some segments
    jitter: float = number(1.0, least=0)  # schedule: mean of the exponential jitter on removed segments
    segments: tuple[str, ...] = tuple_of(SEGMENTS, SOME_SEGMENTS, SEGMENTS.__contains__, least=1)  # thinking is made of

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor > self.start:
            raise ConfigError(f"{self.AT}.floor: must be at most start = {self.start}, not {self.floor}")


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """What a run reads, and how it becomes batches."""

    AT: ClassVar[str] = "config.data"
    sources: Mapping[str, SourceConfig] = dataclasses.field(default_factory=dict)  # NAME = source(...): the mixture
    batch_size: int = number(8, least=1)  # rows of a step, over all devices and micro-batches
    pack: int = number(1, least=1)  # most dialogues that share a row
    window: int = number(2048, least=1)  # dialogues among which rows are planned; more fill them better
    balance: float = number(0.0, least=0, most=1)  # 0 = emotions as they occur, 1 = about equally often, by repeating
    privileged: bool = flag(True)  # text readers (the teacher, stage write) are told what the user feels and why
    max_bad_share: float = number(0.02, least=0, most=1)  # a run stops when more of its records or turns are bad
    # what is compared of shards when a run starts, besides their lengths: 'auto' = their hashes, up to 4 GiB of them
    check_shards: str = one_of("auto", ("auto", "all", "length"))
    read_workers: int = number(0, least=0)  # processes that read ahead; 0 = threads of the run itself do
    read_threads: int = number(2, least=1)  # threads that read ahead, of every such process
    read_ahead: int = number(4, least=1)  # batches that all of them may be ahead
    read_timeout: float = number(600.0, above=0)  # seconds that a reader may be at one turn; then the run ends
    shapes: Shapes = section(Shapes)
    injection: InjectionConfig = section(InjectionConfig)


@dataclasses.dataclass(frozen=True)
class SegmentWeights(Section):
    """CE weights inside the thinking; 0 = read, but not supervised."""

    AT: ClassVar[str] = "config.objective.segment_weights"
    perceive: float = number(1.0, least=0)
    state: float = number(1.0, least=0)
    trajectory: float = number(1.0, least=0)
    cause: float = number(1.0, least=0)
    plan: float = number(1.0, least=0)


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Section):
    """Factors of the losses, of which 0 switches one off, and how they are computed."""

    AT: ClassVar[str] = "config.objective"
    ce: float = number(1.0, least=0)  # CE of thinking and response
    kl: float = number(1.0, least=0)  # align: KL to the teacher on the response
    eot: float = number(1.0, least=0)  # align: KL to the teacher at the end of turn
    attribute: float = number(0.1, least=0)  # CE of the user's emotion from pooled audio states
    units: float = number(1.0, least=0)  # joint: CE of the units
    internalise: float = number(0.0, least=0)  # joint: KL of the answer with thinking to that with an empty think block
    internalise_units: float = number(0.0, least=0)  # joint: the same for the unit heads
    consistency: float = number(0.1, least=0)  # joint: text and speech of an answer show the same style
    kl_think: float = number(0.0, least=0)  # align: weight of thinking tokens in `kl`
    temperature: float = number(2.0, above=0)  # of every KL
    format_weight: float = number(1.0, least=0)  # CE weight of the tokens that close the thinking
    segment_weights: SegmentWeights = section(SegmentWeights)
    # losses of a user's own: (("FILE.py:FUNCTION", factor), ...); objectives/own.py says what such a function gets
    extra: tuple[tuple[str, float], ...] = tuple_of((), 'pairs ("FILE.py:FUNCTION", factor of at least 0)', _is_loss)
    chunk: int = number(256, least=1)  # positions of a row whose vocabulary logits a device holds at a time


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """AdamW, its schedule, and which parameters it trains."""

    AT: ClassVar[str] = "config.optimizer"
    # of the rules that fully match a parameter's name the first counts
    rules: Rules = tuple_of(((".*", 1.0),), SOME_RULES, _is_rule, least=1)
    learning_rate: float = number(1e-3, above=0)  # peak
    schedule: str = one_of("cosine", SCHEDULES)  # after the warm-up, to final_fraction
    warmup_steps: int = number(20, least=0)  # linear from 0 to the peak; at most half of the run
    final_fraction: float = number(0.1, least=0, most=1)  # learning rate at the end, as a share of its peak
    b1: float = number(0.9, least=0, below=1)
    b2: float = number(0.95, least=0, below=1)
    eps: float = number(1e-8, above=0)
    weight_decay: float = number(0.0, least=0)  # decoupled; times the learning rate
    no_decay: str = regex(r".*(norm\.scale|bias|embed|positions|mix)")  # full match: without weight decay
    clip_norm: float = number(1.0, least=0)  # global gradient norm; 0 = no clipping
    max_bad_steps: int = number(3, least=1)  # the run stops after as many steps in a row with a non-finite gradient


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section):
    """How long and in which portions a run trains."""

    AT: ClassVar[str] = "config.train"
    steps: int = number(100, least=1)  # optimiser updates
    accumulate: int = number(1, least=1)  # micro-batches of a step, as exact as one large batch
    log_every: int = number(10, least=1)  # steps
    # of XLA for the step, such as ("xla_tpu_scoped_vmem_limit_kib=98304",)
    compiler_options: tuple[str, ...] = tuple_of((), "lines of the form name=value", _is_option)


@dataclasses.dataclass(frozen=True)
class MeshConfig(Section):
    """Sizes of the mesh axes; one may be -1 = the rest."""

    AT: ClassVar[str] = "config.mesh"
    replica: int = number(1, least=1, also=(-1,))
    fsdp: int = number(-1, least=1, also=(-1,))
    context: int = number(1, least=1, also=(-1,))
    tensor: int = number(1, least=1, also=(-1,))


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Section):
    """When a run is saved, and what is kept."""

    AT: ClassVar[str] = "config.checkpoint"
    every: int = number(200, least=1)  # steps; the last step is always saved
    keep: int = number(2, least=1)  # newest checkpoints that are kept
    initial: bool = flag(False)  # also save step 0, the model before training
    # fields and sections that may differ when a run goes on, such as ("objective", "data.sources.mine.records")
    allow_changes: tuple[str, ...] = tuple_of((), "names of fields or sections", _is_name)


@dataclasses.dataclass(frozen=True)
class RunConfig(Section):
    """A whole run. It trains nothing by itself: its defaults name no data."""

    AT: ClassVar[str] = "config"
    stage: str = text("align")  # an entry of the table in objectives/stages.py, which says what there is
    seed: int = number(0, least=0, below=2**32)  # of initialisation, data order and every random choice in the data
    model: ModelConfig = section(ModelConfig)
    chat: ChatConfig = section(ChatConfig)
    tokenizer: TokenizerConfig = section(TokenizerConfig)
    codec: str = text()  # unit codec (folder or .onnx) of a run that speaks; '' = that of init.checkpoint, or none
    init: InitConfig = section(InitConfig)
    data: DataConfig = section(DataConfig)
    objective: ObjectiveConfig = section(ObjectiveConfig)
    optimizer: OptimizerConfig = section(OptimizerConfig)
    train: TrainConfig = section(TrainConfig)
    mesh: MeshConfig = section(MeshConfig)
    checkpoint: CheckpointConfig = section(CheckpointConfig)
