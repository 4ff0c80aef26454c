"""GGUF files: dequantised by transformers, then kept as an ordinary safetensors model folder.

A GGUF file holds configuration, tokenizer and weights. It is read alone: what lies beside it (a configuration, a
tokenizer, code) is not looked at, so that the hash of the file is the key of what was made of it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from foretune.model.pretrained import Source, loaded_parts
from foretune.model.weight_files import check_gguf
from foretune.store.cached import cached_folder
from foretune.store.packages import cache_folder, sha256_of

_FORMAT = "alone"
"""Part of the key: folders that were made in another way have another."""


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the causal language model in a GGUF file to `folder` as float32 safetensors with its tokenizer.

    Raises:
        ModelError: the file is not a GGUF file or not a whole one, lacks weights, or transformers cannot read it.
    """
    check_gguf(file)
    with tempfile.TemporaryDirectory(prefix="foretune-") as empty:
        (Path(empty) / file.name).symlink_to(file.absolute())
        source = Source(str(file), empty, gguf_file=file.name)
        _, tokenizer, loaded, _ = loaded_parts(source, torch.float32, "causal")
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
        ModelError: see `convert_gguf`.
        StorageError: the cache cannot be written.
    """
    check_gguf(file)
    folder = cache_folder() / "models" / f"gguf-{_FORMAT}-{sha256_of(file)[:24]}"
    return cached_folder(folder, lambda made: convert_gguf(file, made))
