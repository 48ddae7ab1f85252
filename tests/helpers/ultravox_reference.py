"""Ultravox put together from transformers' modules: encoder, both projectors, and a greedy decoder around an LLM."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, WhisperConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperEncoderLayer

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}


def key_mask(lengths, size):
    """Additive mask [B, 1, 1, size]: keys behind a clip are not seen."""
    seen = torch.arange(size) < lengths[:, None]
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None, None].expand(-1, 1, size, size)


class Tower(WhisperEncoder):
    """Whisper's encoder for windows of any length, whose attention sees a clip's own states."""

    def forward(self, features, frames):
        x = F.gelu(self.conv2(F.gelu(self.conv1(features)))).transpose(1, 2)
        x = x + self.embed_positions.weight[: x.shape[1]]
        mask = key_mask((frames - 1) // 2 + 1, x.shape[1])
        for layer in self.layers:
            x = plain(layer(x, mask))
        return self.layer_norm(x)


def plain(output):
    return output[0] if isinstance(output, tuple) else output


def stacked(x, factor):
    x = F.pad(x, (0, 0, 0, -x.shape[1] % factor))
    return x.reshape(len(x), x.shape[1] // factor, -1)


class FeedForward(nn.Module):
    """Ultravox's projector without layers."""

    def __init__(self, settings):
        super().__init__()
        self.factor, self.act = settings["stack_factor"], settings["projector_act"]
        inputs, hidden = settings["audio_config"]["d_model"] * self.factor, settings["hidden_size"]
        inner = hidden // 2 if self.act == "swiglu" else hidden
        width, mid = settings["text_config"]["hidden_size"], settings["projector_ln_mid"]
        self.ln_pre = LlamaRMSNorm(inputs)
        self.linear_1 = nn.Linear(inputs, hidden, bias=False)
        self.linear_2 = nn.Linear(inner, width, bias=False)
        self.ln_mid = LlamaRMSNorm(inner) if mid else nn.Identity()
        self.ln_post = nn.Identity() if mid else LlamaRMSNorm(width)

    def forward(self, x, lengths):
        x = self.linear_1(self.ln_pre(stacked(x, self.factor)))
        if self.act == "swiglu":
            value, gate = x.chunk(2, dim=-1)
            x = F.silu(gate) * value
        else:
            x = ACTIVATIONS[self.act](x)
        return self.ln_post(self.linear_2(self.ln_mid(x)))


class Transformer(nn.Module):
    """Ultravox's projector with Whisper's layers; `lengths` None = all positions are a clip's."""

    def __init__(self, settings):
        super().__init__()
        config = WhisperConfig(**settings["audio_config"], attn_implementation="eager")
        self.factor = settings["stack_factor"]
        inputs, width = config.d_model * self.factor, config.d_model
        self.ln_pre = LlamaRMSNorm(inputs)
        self.linear_in = nn.Linear(inputs, width)
        self.embed_positions = nn.Embedding(config.max_source_positions, width)
        self.layers = nn.ModuleList(WhisperEncoderLayer(config) for _ in range(settings["num_projector_layers"]))
        self.ln_post = LlamaRMSNorm(width)
        self.linear_out = nn.Linear(width, settings["text_config"]["hidden_size"])

    def forward(self, x, lengths):
        x = self.linear_in(self.ln_pre(stacked(x, self.factor)))
        x = x + self.embed_positions.weight[: x.shape[1]]
        mask = None if lengths is None else key_mask(lengths, x.shape[1])
        for layer in self.layers:
            x = plain(layer(x, mask))
        return self.linear_out(self.ln_post(x))


def projector_of(settings):
    """The projector that a config.json asks for."""
    return (Transformer if settings["num_projector_layers"] else FeedForward)(settings)


class Ultravox(nn.Module):
    """The whole: strict names of the public layout."""

    def __init__(self, settings):
        super().__init__()
        self.audio_token, self.end = settings["audio_token_index"], settings["eos_token_id"]
        self.audio_tower = Tower(WhisperConfig(**settings["audio_config"], attn_implementation="eager"))
        self.multi_modal_projector = projector_of(settings)
        text = dict(settings["text_config"])
        config = AutoConfig.for_model(text.pop("model_type"), **text)
        self.language_model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")

    def embeddings(self, ids, clips):
        """Token embeddings [1, T, D] with the clips' features, each [M, F], at the audio token's places."""
        x = self.language_model.get_input_embeddings()(ids).clone()
        heard = [
            self.multi_modal_projector(self.audio_tower(clip[None], torch.tensor([clip.shape[1]])), None)[0]
            for clip in clips
        ]
        places = ids == self.audio_token
        if clips:
            heard = torch.cat(heard)
            assert int(places.sum()) == len(heard)
            x[places] = heard
        return x

    @torch.no_grad()
    def greedy(self, ids, clips, *, most, never):
        """The `most` tokens that follow, none of them one of `never`, or fewer where the turn ends before."""
        x, found, cache = self.embeddings(ids, clips), [], None
        for _ in range(most):
            out = self.language_model(inputs_embeds=x, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            out.logits[0, -1, never] = -torch.inf
            found.append(int(out.logits[0, -1].argmax()))
            if found[-1] == self.end:
                break
            x = self.language_model.get_input_embeddings()(torch.tensor([[found[-1]]]))
        return found
