"""GOAT-SLM put together from transformers' modules: strict names of its layout, and its greedy way to speak."""

import torch
import torch.nn.functional as F
from helpers.ultravox_reference import plain
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, WhisperConfig
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding
from transformers.models.whisper.modeling_whisper import WhisperEncoder


class Subsampler(nn.Module):
    """Gated convolutions of stride 2."""

    def __init__(self, inputs, outputs, kernels):
        super().__init__()
        last = len(kernels) - 1
        self.conv_layers = nn.ModuleList(
            nn.Conv1d(inputs, 2 * (outputs if number == last else inputs), kernel, stride=2, padding=kernel // 2)
            for number, kernel in enumerate(kernels)
        )

    def forward(self, x):
        x = x.transpose(1, 2)
        for conv in self.conv_layers:
            x = F.glu(conv(x), dim=1)
        return x.transpose(1, 2)


class Adapter(nn.Module):
    """Layers as Qwen2's, which see the whole clip."""

    def __init__(self, settings):
        super().__init__()
        config = Qwen2Config(**{key: value for key, value in settings.items() if key != "model_type"})
        config._attn_implementation = "eager"
        self.layers = nn.ModuleList(Qwen2DecoderLayer(config, number) for number in range(config.num_hidden_layers))
        self.norm = Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Qwen2RotaryEmbedding(config)

    def forward(self, x):
        rotation = self.rotary(x, torch.arange(x.shape[1])[None])
        for layer in self.layers:
            x = plain(layer(x, attention_mask=None, position_embeddings=rotation))
        return self.norm(x)


class Goat(nn.Module):
    """The whole. Speak is a second model of the LLM's class, of which the upper layers and the norm are used."""

    def __init__(self, settings):
        super().__init__()
        text = dict(settings["llm_config"])
        kind, self.freeze, units = text.pop("model_type"), text["freeze_layer"], text["unit_vocab_size"] + 1
        config = AutoConfig.for_model(kind, **text)
        width, whisper = config.hidden_size, settings["whisper_config"]
        self.whisper_model = WhisperEncoder(WhisperConfig(**whisper, attn_implementation="eager"))
        kernels = [int(kernel) for kernel in settings["conv_kernel_sizes"].split(",")]
        self.subsampler = Subsampler(whisper["d_model"], width, kernels)
        self.adapter = Adapter(settings["adapter_config"])
        self.speech_ln = nn.LayerNorm(width, 1e-5)
        self.llm_model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        generator = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        self.llm_model.add_module("speech_generator", generator)
        self.llm_model.add_module("emb_unit", nn.Embedding(units, width))
        heads = nn.ModuleList(nn.Linear(width, units, bias=False) for _ in range(text["num_tok_per_group"]))
        self.llm_model.add_module("head_unit", heads)

    def hear(self, features, mask):
        """Positions [A, D] of one clip: its window's features [1, M, F], and which frames are the clip's [1, F]."""
        states = self.whisper_model(features).last_hidden_state
        length = (int(mask.sum()) - 1) // 2 + 1
        return self.speech_ln(self.adapter(self.subsampler(states[:, :length])))[0]

    def embed(self, ids, audio=(), places=None):
        """Ids [T] -> [1, T, D], with the clips' positions where `places` [T] is true."""
        x = self.llm_model.get_input_embeddings()(ids)
        if len(audio):
            x = x.clone()
            x[places] = torch.cat(list(audio))
        return x[None]

    def think(self, x):
        """The state that enters layer freeze_layer + 1."""
        return self.llm_model.model(inputs_embeds=x, output_hidden_states=True).hidden_states[self.freeze + 1]

    def text_logits(self, x):
        return self.llm_model(inputs_embeds=x).logits[0]

    def unit_logits(self, x):
        """What Speak is fed [1, S, D] -> [S, 4, U]."""
        model = self.llm_model.speech_generator.model
        size = x.shape[1]
        mask = torch.full((size, size), torch.finfo(torch.float32).min).triu(1)[None, None]
        rotation = model.rotary_emb(x, torch.arange(size)[None])
        for layer in model.layers[self.freeze + 1 :]:
            x = plain(layer(x, attention_mask=mask, position_embeddings=rotation))
        x = model.norm(x)[0]
        return torch.stack([head(x) for head in self.llm_model.head_unit], dim=1)

    def speak(self, prefix, following, *, end, most):
        """Greedy units behind the states `prefix` [P, D]; one of `following` [n, D] is fed with each group."""
        fed, units = prefix, []
        for number in range(most):
            group = self.unit_logits(fed[None])[-1].argmax(-1).tolist()
            ends = [place for place, unit in enumerate(group) if unit >= end]
            if ends:
                return units + group[: ends[0]]
            units += group
            state = self.llm_model.emb_unit(torch.tensor(group)).sum(0)
            fed = torch.cat([fed, (state + following[number] if number < len(following) else state)[None]])
        return units
