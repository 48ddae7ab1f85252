"""A row that grows and is taken back against rows built anew, and prompts against rows."""

import dataclasses

import numpy as np
import pytest
from helpers.reference_layout import kept_turns
from helpers.tiny_run import CONFIG, voice

from ieat_jax.audio.logmel import clip_log_mel
from ieat_jax.config.sections import Shapes
from ieat_jax.data.arrays import Clip
from ieat_jax.data.layout import LayoutError, LayoutOptions, TurnPlan, lay_out
from ieat_jax.inference.prompt import PromptBuilder, UserTurn
from ieat_jax.model.adapters import adapter_length
from ieat_jax.text.chat import ChatFormat
from ieat_jax.text.tokenizer import train_tokenizer

WORDS = [
    "the",
    "user",
    "feels",
    "sad",
    "because",
    "i",
    "lost",
    "my",
    "keys",
    "and",
    "you",
    "are",
    "kind",
    "so",
    "take",
    "your",
    "time",
    "with",
    "it",
]
MELS, FRAMES, POSITIONS = 4, 20, 5
OPTIONS = [
    LayoutOptions(),
    LayoutOptions(teacher=True),
    LayoutOptions(speech=True, unit_end=20),
    LayoutOptions(speech=True, internalise=True, internalise_units=True, unit_end=20),
]


@pytest.fixture(scope="module")
def chat():
    return ChatFormat(train_tokenizer([" ".join(WORDS)] * 4, 320), True, "You are kind.", "You speak.")


def random_plan(rng):
    def words(most):
        return " ".join(rng.choice(WORDS, rng.integers(1, most)))

    segments = ("perceive", "state", "cause", "plan")
    thinking = {name: words(5) for name in segments if rng.random() < 0.5}
    heard = rng.random() < 0.7
    clip = Clip(np.full((12, MELS), rng.normal(), np.float32), 3, int(rng.integers(-1, 5))) if heard else None
    units = rng.integers(0, 20, rng.integers(1, 20)).tolist() if rng.random() < 0.6 else None
    return TurnPlan(clip, words(8), words(8), thinking, words(9), style=int(rng.integers(-1, 4)), units=units)


@pytest.mark.parametrize("seed", range(60))
def test_a_row_keeps_what_rows_built_anew_would_keep_and_tokenises_every_text_once(seed, chat):
    rng = np.random.default_rng(seed)
    options = OPTIONS[seed % len(OPTIONS)]
    dialogues = [[random_plan(rng) for _ in range(rng.integers(1, 5))] for _ in range(rng.integers(1, 7))]
    sizes = [
        int(rng.integers(*bounds)) for bounds in ((40, 300), (1, 6), (20, 200), (1, 7), (40, 300), (40, 400), (2, 30))
    ]
    shapes = Shapes(*sizes)
    if not options.teacher:
        shapes = dataclasses.replace(shapes, teacher_tokens=0)
    if not options.speech:
        shapes = dataclasses.replace(shapes, speak=0, groups=0)
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(chat.tokenizer, name)

        def encode(self, text):
            calls.append(text)
            return chat.tokenizer.encode(text)

    counted = ChatFormat(Counting(), True, "You are kind.", "You speak.")
    counted.system()  # the format's own pieces become tokens here
    calls.clear()
    arguments = {"frames": FRAMES, "mels": MELS, "positions_per_clip": POSITIONS}
    try:
        kept, counts = kept_turns(dialogues, chat, shapes, options)
    except LayoutError as error:
        name = str(error).split()[0]
        with pytest.raises(LayoutError, match=rf"config\.data\.shapes\.{name} is"):
            lay_out(dialogues, counted, shapes, options, **arguments)
        return
    row, found = lay_out(dialogues, counted, shapes, options, **arguments)
    assert found == counts
    texts = {t for d in dialogues for p in d for t in (p.text, p.teacher_text, p.response)}
    thoughts = {(" " * bool(n)) + s for d in dialogues for p in d for n, s in enumerate(p.thinking.values())}
    assert len(calls) == len(set(calls))
    assert set(calls) <= texts | thoughts
    alone, all_of_it = lay_out(kept, chat, shapes, options, **arguments)
    assert all_of_it == [len(turns) for turns in kept]
    for field in dataclasses.fields(row):
        np.testing.assert_array_equal(getattr(row, field.name), getattr(alone, field.name), err_msg=field.name)


def test_a_turn_of_a_prompt_may_hold_a_clip_and_text_after_it(chat):
    prompts, sound = PromptBuilder(chat, CONFIG.listen), voice(0)
    clip, text, both = (
        prompts.build([UserTurn(*said)], think=True, speech=False)
        for said in ((sound,), (None, "my keys"), (sound, "my keys"))
    )
    words = chat.tokenizer.encode("my keys")
    close = [*chat.user_close, *chat.think_open]
    end = len(clip.tokens) - len(close)
    assert both.tokens.tolist() == [*clip.tokens[:end], *words, *close]
    assert both.positions.tolist() == list(range(len(both.tokens)))
    assert both.audio_index.tolist() == [*clip.audio_index[:end], *[-1] * (len(words) + len(close))]
    assert text.tokens.tolist() == [*chat.system(), *chat.user_open, *words, *close]


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("speech", [True, False])
@pytest.mark.parametrize("heard", [(True, True), (False, True), (True, False)])
def test_a_prompt_is_a_row_that_stops_before_the_answer(think, speech, heard, chat):
    prompts = PromptBuilder(chat, CONFIG.listen)
    turns, plans = [], []
    for number, audio in enumerate(heard):
        sound = voice(number, 0.5 + 0.2 * number)
        behind = CONFIG.listen.behind
        mel = clip_log_mel(sound, num_mels=80, window_seconds=1.0, behind=behind)
        positions = int(adapter_length(CONFIG.listen.adapter, len(mel) - behind))
        clip = Clip(mel, positions, 2, behind=behind) if audio else None
        said = WORDS[number] + " keys"
        turns.append(UserTurn(sound) if audio else UserTurn(text=said))
        turns[-1] = turns[-1].answered("take your time") if number == 0 else turns[-1]
        plans.append(TurnPlan(clip, said, "", {"state": "sad"} if think else {}, "take your time"))
    prompt = prompts.build(turns, think=think, speech=speech)
    shapes = Shapes(
        tokens=300, clips=2, targets=100, answers=2, teacher_tokens=0, speak=300 * speech, groups=9 * speech
    )
    options = LayoutOptions(speech=speech, unit_end=20)
    row, _ = lay_out([plans], chat, shapes, options, frames=100, mels=80, positions_per_clip=100)
    seen = (row.branch_ids == 0) | (row.branch_ids == 2)  # the trunk and the last answer's branch
    seen &= row.segment_ids > 0
    size = len(prompt.tokens)
    assert size < seen.sum()
    for mine, theirs in (
        ("tokens", prompt.tokens),
        ("positions", prompt.positions),
        ("segment_ids", prompt.segment_ids),
    ):
        np.testing.assert_array_equal(getattr(row, mine)[seen][:size], theirs)
    number_of_clip = row.audio_index[seen][:size] // 100
    np.testing.assert_array_equal(number_of_clip >= 0, prompt.audio_index >= 0)
    assert len(prompt.clips) == sum(heard)
