"""Loading a language model: a built-in name, a hub id, a local folder or a GGUF file, from safetensors only."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from foretune.errors import UsageError, nearest
from foretune.model.builtin import MODELS, builtin_folder
from foretune.model.gguf import gguf_folder
from foretune.model.kinds import KINDS, architecture, kind_of, reads_left_to_right
from foretune.model.pretrained import Source, loaded_parts
from foretune.model.unused import say_classifier_unused, say_sentence_parts_unused, stored_pooling
from foretune.store.hub import hub_answers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class LanguageModel:
    """A pretrained model and its tokenizer.

    Attributes:
        module: the transformers (or peft) model.
        tokenizer: tokenizer of the model.
        name: what it was loaded by.
        revision: the hub revision asked for, or the version of a built-in model's package.
        kind: `causal` or `masked` (has an output layer over the vocabulary), or `encoder` (has none).
        pooling: how sentence_transformers pools its tokens, `mean`, `cls` or `last`; None where its folder does not say.
    """

    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None
    kind: str
    pooling: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(p.dtype for p in self.module.parameters() if p.is_floating_point())

    @property
    def left_to_right(self) -> bool:
        """Whether only its last token has read the whole text."""
        config: Any = self.module.config
        return self.kind == "causal" or (self.kind == "encoder" and reads_left_to_right(config))


@dataclass(frozen=True)
class ModelSource:
    """A language model that is loaded where it is needed; see `load_model`."""

    name: str
    dtype: str = "float32"
    device: str = "cpu"
    revision: str | None = None
    kind: str | None = None
    trust_remote_code: bool = False

    def opened(self) -> LanguageModel:
        """The model. Raises as `load_model` does."""
        return load_model(**vars(self))


@torch.inference_mode(False)
def load_model(
    name: str | Path,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    revision: str | None = None,
    kind: str | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a model and its tokenizer.

    Args:
        name: `smollm2`, `minilm`, `bert-tiny`, a hub id, a local model folder, or a `.gguf` file.
        dtype: `float32`, `float64`, `bfloat16`, `float16` or a torch dtype.
        device: `cpu`, `cuda`, `cuda:1`.
        revision: branch, tag or commit on the hub.
        kind: `causal`, `masked` or `encoder`; by default what the model's configuration says it was trained as.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        UsageError: an unknown dtype, kind or device, or a name that leads to no model.
        ModelError: the model cannot be loaded, the hub cannot be asked for it, it has no safetensors weights, or lacks
            weights that its outputs depend on.
        NonFiniteError: weights that its outputs depend on are infinite or undefined.
    """
    chosen = _dtype(dtype)
    where = _device(device)
    if kind is not None and kind not in KINDS:
        raise UsageError(f"Unknown kind {kind!r}. Expected one of {', '.join(KINDS)}.{nearest(kind, KINDS)}")
    place, shown_revision = model_place(str(name), revision)
    online = Path(place).is_dir() or hub_answers()
    source = Source(str(name), place, revision, trust_remote_code, online=online)
    config, tokenizer, module, found = loaded_parts(source, chosen, kind)
    _say_how_it_is_read(str(name), config, found, kind)
    say_classifier_unused(str(name), config, found)
    if source.local:
        say_sentence_parts_unused(str(name), Path(place))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    return LanguageModel(
        module.to(where).eval(), tokenizer, str(name), shown_revision, found, stored_pooling(Path(place))
    )


def _say_how_it_is_read(name: str, config: Any, kind: str, asked: str | None) -> None:
    """Say it where a model is read as something that it was not trained as."""
    trained = architecture(config)
    if asked == "causal" and kind_of(config) == "masked":
        warnings.warn(
            f"{name} was trained to fill in masks ({trained}). As --kind causal it is asked for the next word after a "
            "text, which it was never trained to say. Leave --kind out (kind=None) to use it as it was trained.",
            stacklevel=3,
        )
    if asked is not None:
        return
    if kind == "encoder" and not trained:
        warnings.warn(
            f"The config.json of {name} names no architecture, so only its body is read, with a new head on it. If it was "
            "trained to predict words, say so: --kind causal or --kind masked (kind=...).",
            stacklevel=3,
        )


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise UsageError(f"Unknown dtype {dtype!r}. Expected one of {', '.join(DTYPES)}.{nearest(dtype, DTYPES)}")
    return DTYPES[dtype]


def _device(device: str | torch.device) -> torch.device:
    """Where to compute, if that is here.

    Raises:
        UsageError: it is not; the message says what there is.
    """
    try:
        where = torch.device(device)
        if where.type == "meta" or (where.type == "cpu" and where.index):
            raise RuntimeError("PyTorch knows no such device")
        torch.empty(0, dtype=torch.float64, device=where)
    except (RuntimeError, AssertionError, TypeError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        count = torch.cuda.device_count()
        if str(device).startswith("cuda"):
            first = f"PyTorch sees {count} CUDA devices" if count else "PyTorch sees no CUDA device"
        if str(device).startswith("mps"):
            first = "kernels are summed in float64, which mps does not have"
        raise UsageError(f"Device {str(device)!r} cannot be used here: {first}. Try --device cpu.") from error
    return where


def model_place(name: str, revision: str | None) -> tuple[str, str | None]:
    """Where transformers finds the model, and the revision to report."""
    if not name.strip():
        raise UsageError(
            "The model's name is empty. Expected a built-in name, a hub id, a model folder or a .gguf file."
        )
    path = Path(name)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # too long for a path, or a zero byte in it
        raise UsageError(f"{name[:60]!r} cannot be the name of a model: {error}"[:200]) from error
    if is_folder:
        return name, revision
    if exists:
        if path.suffix.lower() != ".gguf" or not path.is_file():
            raise UsageError(f"{name} is a file; expected a model folder, a .gguf file, a hub id or a built-in name.")
        return str(gguf_folder(path)), revision
    if name in MODELS:
        return str(builtin_folder(name)), MODELS[name].package.version
    return name, revision
