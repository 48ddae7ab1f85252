"""Weights from the Hugging Face hub: `hf:ORG/NAME@REVISION`, as a folder of the hub's own cache.

Only configuration, tokenizer and safetensors are fetched, or what the manifest of an export names. A token is the
hub's own affair: HF_TOKEN, or `hf auth login`; so are its address (HF_ENDPOINT) and its cache (HF_HOME).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from ieat_jax.interop.containers.source import INDEX, SINGLE, InteropError, read_json
from ieat_jax.interop.verify import CONFIG
from ieat_jax.runs import manifest
from ieat_jax.storage import local_path

PREFIX = "hf:"
_SPEC = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([^\s@]+))?", re.ASCII)
# What is needed to know which files hold the tensors, and what a model folder has beside them.
FIRST = (
    "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json", INDEX, CONFIG, manifest.FILE,
)  # fmt: skip


def weights_path(spec: str, name: str) -> Path:
    """Where the weights `spec` lie on this machine; those of the hub are fetched into its cache first.

    Args:
        spec: a path, or hf:ORG/NAME@REVISION; without a revision, that of the branch main.
        name: of the flag or field, for messages.

    Raises:
        InteropError: the hub has no such weights, cannot be reached, or holds no safetensors.
        StorageError: as `local_path`.
    """
    return _fetched(spec) if spec.startswith(PREFIX) else local_path(spec, name)


@functools.cache  # a branch that moves meanwhile is read once
def _fetched(spec: str) -> Path:
    found = _SPEC.fullmatch(spec)
    if not found:
        raise InteropError(
            f"{spec}: weights of the hub are named hf:ORG/NAME@REVISION, such as hf:Qwen/Qwen3-1.7B@main"
        )
    repository, revision = found[1], found[2] or "main"
    folder = _snapshot(spec, repository, revision, FIRST)
    files = _tensors(folder)
    commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else revision
    folder = _snapshot(spec, repository, commit, files)
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise InteropError(
            f"{spec}: the repository has no {', '.join(missing[:5])}; only safetensors are read, never PyTorch's "
            "pickles: name a revision that has them, or load it with transformers, save_pretrained it, give that folder"
        )
    return folder


def _tensors(folder: Path) -> tuple[str, ...]:
    """The files of a snapshot that hold tensors; of an export, every file."""
    if (folder / CONFIG).is_file() and (folder / manifest.FILE).is_file():
        try:
            return tuple(manifest.read_manifest(folder) or ())
        except ValueError as error:
            raise InteropError(f"{folder}: {error}; upload the export again") from error
    if not (folder / INDEX).is_file():
        return (SINGLE,)
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) and shard for shard in shards.values()):
        raise InteropError(f"{folder / INDEX}: no weight_map in it; download the file again")
    return tuple(sorted(set(shards.values())))


def _snapshot(spec: str, repository: str, revision: str, files: tuple[str, ...]) -> Path:
    """The cache's folder of a revision, with those of `files` that it has."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=[re.sub(r"([*?\[])", r"[\1]", file) for file in files]
            )
        )
    except errors.GatedRepoError:
        reason = "its owner wants a licence accepted first, and a token (hf auth login, or HF_TOKEN)"
    except errors.RepositoryNotFoundError:
        reason = "the hub has no such repository, or it is private and needs a token (hf auth login, or HF_TOKEN)"
    except errors.RevisionNotFoundError:
        reason = f"the repository has no revision {revision!r}"
    except errors.LocalEntryNotFoundError:
        reason = "the hub cannot be reached, and its cache on this machine does not hold all of it"
    except Exception as error:  # what network, disk and library raise
        text = str(error).strip().splitlines() or [""]
        reason = f"cannot be fetched ({type(error).__name__}: {text[0]:.200})"
    raise InteropError(
        f"{spec}: {reason}; fetch it where that works (hf download {repository} --revision {revision} --local-dir "
        "FOLDER), and give FOLDER instead"
    )
