"""Thinking in somebody else's decoder: transformers and llama.cpp say, token by token, what our decoder says."""

import numpy as np
import pytest
import torch
import transformers
import xllamacpp
from helpers import taught_run

from ieat_jax.inference.generator import Generator, Limits
from ieat_jax.inference.prompt import PromptBuilder
from ieat_jax.interop.export import export
from ieat_jax.text.chat import ChatConfig, ChatFormat
from ieat_jax.text.template import chat_template

DIALOGUES = taught_run.dialogues()


@pytest.fixture(scope="module")
def run():
    return taught_run.taught_run()


@pytest.fixture(scope="module")
def replies(run):
    generator = Generator.from_run(run, limits=Limits(think=60, response=60), batch_size=len(DIALOGUES))
    return generator.reply(DIALOGUES)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("exports") / "huggingface"
    export(run, path)
    return path / "llm"


def test_our_decoder_thinks_and_answers(replies):
    assert len(replies) >= 12
    number = [*range(12), 1]
    assert [reply.think_text for reply in replies] == [taught_run.THOUGHT[n] for n in number]
    assert [reply.text for reply in replies] == [taught_run.REPLIES[n] for n in number]


def test_transformers_generates_the_same_tokens_and_splits_them(folder, replies):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 320
    for turns, reply in zip(DIALOGUES, replies, strict=True):
        prompt = tokenizer.apply_chat_template(
            taught_run.messages(turns), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        length = prompt["input_ids"].shape[1]
        tokens = model.generate(**prompt, max_new_tokens=100)[0].tolist()
        assert tokens[length:] == list(reply.tokens)
        parsed = tokenizer.parse_response(tokens[length:], prefix=tokens[:length])
        assert (parsed["thinking"].strip(), parsed["content"].strip()) == (reply.think_text, reply.text)
        # What servers do: special tokens left out, split at the tag, which has to be still there.
        thinking, _, answer = tokenizer.decode(tokens[length:], skip_special_tokens=True).partition("</think>")
        assert (thinking.strip(), answer.strip()) == (reply.think_text, reply.text)


def test_a_batch_of_padded_prompts_says_the_same(folder, replies):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompts = [taught_run.messages(turns) for turns in DIALOGUES[:4]]
    batch = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    with torch.no_grad():
        made = model.generate(**batch, max_new_tokens=100)[:, batch["input_ids"].shape[1] :]
    for row, reply in zip(made, replies, strict=False):
        assert row.tolist()[: len(reply.tokens)] == list(reply.tokens)


@pytest.mark.parametrize("dtype", ["float32", "float16", "q8_0"])
def test_llama_cpp_thinks_and_answers_the_same(run, replies, tmp_path, dtype):
    export(run, tmp_path / "out", to="gguf", dtype=dtype)
    server = _server(tmp_path / "out" / "model.gguf")
    for turns, reply in zip(DIALOGUES, replies, strict=True):
        request = {"messages": taught_run.messages(turns), "temperature": 0, "max_tokens": 100}
        message = server.handle_chat_completions(request)["choices"][0]["message"]
        assert message["reasoning_content"].strip() == reply.think_text
        assert message["content"].strip() == reply.text


def _server(file):
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(file), 512, 1
    parameters.cpuparams.n_threads, parameters.warmup = 1, False
    return xllamacpp.Server(parameters)


@pytest.mark.parametrize("system", ["You are kind.", "It's {{ 'odd' }} {% raw %}\\n \"quoted\"\nand long. 你好 🙂", ""])
@pytest.mark.parametrize("thinks", [True, False])
def test_the_template_renders_the_very_tokens_of_our_prompts(run, folder, system, thinks):
    chat = ChatFormat.from_config(run.tokenizer, ChatConfig(thinks=thinks, system_text=system))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = chat_template(chat)
    build = PromptBuilder(chat, run.config.model.listen).build
    for turns in DIALOGUES[-2:]:
        for think in (True, False) if thinks else (False,):
            messages, expected = taught_run.messages(turns), build(turns, think=think, speech=False).tokens
            for message in messages:  # what clients send back
                if message["role"] == "assistant":
                    message["content"] = f"<think>\nThe user feels sad.\n</think>\n\n{message['content']}"
            asked = {"add_generation_prompt": True, "enable_thinking": think, "return_dict": False}
            assert tokenizer.apply_chat_template(messages, **asked) == expected.tolist()
            own = [{"role": "system", "content": "You are kind."}, *messages]
            assert "You are kind." in tokenizer.apply_chat_template(own, **asked, tokenize=False)
            assert np.isin(chat.end_of_turn, tokenizer.apply_chat_template(messages, return_dict=False))
