import functools
import pickle

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from ieat_jax.text.chat import ChatConfig, ChatFormat
from ieat_jax.text.tokenizer import Tokenizer, TokenizerError, train_tokenizer


@functools.cache
def tokenizer():
    return train_tokenizer(["system user assistant You feel, and you say it.\n\n"] * 3, 320)


def spelled(ids):
    """Ids as text, control tokens included."""
    return tokenizer()._backend.decode(ids, skip_special_tokens=False)


def chat(**changes):
    return ChatFormat(tokenizer(), **({"thinks": True, "system_text": "You feel."} | changes))


def test_a_dialogue_reads_as_chatml():
    form = chat()
    think = tokenizer().encode("they are sad")
    ids = [*form.system(), *form.user_open, *tokenizer().encode("hi"), *form.user_close, *form.response("hello")]
    ids += [*form.user_open, form.audio_id, *form.user_close, *form.think_open, *think, *form.think_close]
    assert spelled(ids) == (
        "<|im_start|>system\nYou feel.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n"
        "<|im_start|>user\n<|audio|><|im_end|>\n<|im_start|>assistant\n<think>\nthey are sad\n</think>\n\n"
    )
    assert spelled(form.speech_system()) == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert spelled(form.empty_think) == "<think>\n\n</think>\n\n"
    assert spelled([form.end_of_turn]) == "<|im_end|>"


def test_pieces_are_lists_of_their_own():
    form = chat()
    form.user_open.append(7)
    form.system().append(7)
    assert 7 not in [*form.user_open, *form.system()]


def test_a_format_that_does_not_think_has_no_think_pieces():
    form = chat(thinks=False)
    assert form.think_open == form.think_close == form.empty_think == []


def test_answers_and_system_texts_can_not_end_a_turn():
    assert chat().response("<|im_end|>").count(chat().end_of_turn) == 1
    assert chat(system_text="<|im_end|>").system().count(chat().end_of_turn) == 1


def test_from_a_config_and_through_pickle():
    section = ChatConfig(thinks=False, system_text="You feel.", speech_system_text="You say it.")
    form = ChatFormat.from_config(tokenizer(), section)
    assert not form.thinks
    assert spelled(form.speech_system()) == "<|im_start|>system\nYou say it.<|im_end|>\n"
    assert pickle.loads(pickle.dumps(form)).speech_system() == form.speech_system()


def test_missing_control_tokens_are_all_named():
    bare = tokenizer().renamed({"<think>": "<a>", "</think>": "<b>", "<|audio|>": "<c>"})
    with pytest.raises(TokenizerError, match=r"no <think>, </think>: .*config.chat.thinks = False"):
        ChatFormat(bare, True, "")
    form = ChatFormat(bare, False, "")
    assert form.audio_id == bare.token_id("<|im_start|>")
    with pytest.raises(TokenizerError, match=r"no <\|im_end\|>: rename"):
        ChatFormat(bare.renamed({"<|im_end|>": "<d>"}), False, "")


WORDS = "system user assistant You feel. I lost my keys again Oh no where they are sad"
CONTROL = ["<unk>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def metaspace(scheme, model):
    """A tokenizer that writes spaces as ▁, and puts one before a text (first), behind control tokens (always)."""
    bpe = model == "bpe"
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>") if bpe else models.Unigram())
    if scheme == "prepend":  # as Llama's legacy files have it
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        backend.decoder = decoders.Sequence(steps)
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    settings = dict(special_tokens=["<unk>"], show_progress=False, initial_alphabet=["\n", "\u2581", *"abcdefgh"])
    if bpe:
        trainer = trainers.BpeTrainer(vocab_size=200, **settings)
    else:
        trainer = trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", **settings)
    backend.train_from_iterator(WORDS.split() * 5, trainer)
    backend.add_special_tokens(CONTROL)
    return backend


@pytest.mark.parametrize("model", ["bpe", "unigram"])
@pytest.mark.parametrize("scheme", ["first", "always", "never", "prepend"])
def test_pieces_have_the_ids_that_they_have_inside_the_whole_text(scheme, model):
    backend = metaspace(scheme, model)
    form = ChatFormat(Tokenizer(backend), True, "You feel.")
    encode = form.tokenizer.encode
    ids = [*form.system(), *form.user_open, *encode("I lost my keys"), *form.user_close, *form.empty_think]
    ids += [*form.response("Oh no"), *form.user_open, *encode("again"), *form.user_close, *form.think_open]
    ids += [*encode("they are sad"), *encode(" where they are"), *form.think_close, *form.response("Oh no")]
    whole = (
        "<|im_start|>system\nYou feel.<|im_end|>\n<|im_start|>user\nI lost my keys<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nOh no<|im_end|>\n<|im_start|>user\nagain<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nthey are sad where they are\n</think>\n\nOh no<|im_end|>\n"
    )
    wanted = backend.encode(whole, add_special_tokens=False)
    assert [backend.id_to_token(token) for token in ids] == wanted.tokens
    for text in ("I lost my keys", " again", "Oh  no"):
        assert form.tokenizer.decode(encode(text)) == text
    for copy in (pickle.loads(pickle.dumps(form.tokenizer)), form.tokenizer.renamed({"<think>": "<a>"})):
        assert copy.encode("I lost my keys") == encode("I lost my keys")
