"""GGUF files: dequantised by transformers, then kept as an ordinary safetensors model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foretune.errors import ModelError
from foretune.store.cached import cached_folder
from foretune.store.packages import cache_folder, sha256_of


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the causal language model in a GGUF file to `folder` as float32 safetensors with its tokenizer.

    Raises:
        ModelError: transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"Cannot read the GGUF file {file}: {error}. Convert it to safetensors first.") from error
    config: Any = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(loaded)(config)  # a model that came from GGUF refuses save_pretrained
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def gguf_folder(file: Path) -> Path:
    """The converted model folder of a user's GGUF file, made once per content.

    Raises:
        ModelError: transformers cannot read the file.
        StorageError: the cache cannot be written.
    """
    folder = cache_folder() / "models" / f"gguf-{sha256_of(file)[:24]}"
    return cached_folder(folder, lambda made: convert_gguf(file, made))
