"""Loading a language model: a built-in name, a hub id, a local folder or a GGUF file, from safetensors only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from foretune.errors import ModelError, UsageError, nearest
from foretune.model.builtin import MODELS, builtin_folder
from foretune.model.gguf import gguf_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = ("causal", "masked", "encoder")
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


_DISCRIMINATORS = ("ElectraForPreTraining", "FunnelForPreTraining")
"""Pretrained to tell replaced tokens, so without an output layer over the vocabulary."""


@dataclass(frozen=True)
class LanguageModel:
    """A pretrained model and its tokenizer.

    Attributes:
        module: the transformers (or peft) model.
        tokenizer: its tokenizer.
        name: what it was loaded by.
        revision: the hub revision asked for, or the version of a built-in model's package.
        kind: `causal` or `masked` (has an output layer over the vocabulary), or `encoder` (has none).
    """

    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None
    kind: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(p.dtype for p in self.module.parameters() if p.is_floating_point())


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
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        revision: branch, tag or commit on the hub.
        kind: `causal`, `masked` or `encoder`; by default what the model's configuration says it was trained as.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        UsageError: an unknown dtype, kind or device.
        ModelError: the model cannot be found or loaded, or has no safetensors weights.
    """
    chosen = _dtype(dtype)
    where = _device(device)
    if kind is not None and kind not in KINDS:
        raise UsageError(f"Unknown kind {kind!r}. Expected one of {', '.join(KINDS)}.{nearest(kind, KINDS)}")
    source, shown_revision = _source(str(name), revision)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None and not Path(source).exists():
        options["revision"] = revision
    module, tokenizer, kind = _loaded(str(name), source, chosen, kind, options)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    return LanguageModel(module.to(where).eval(), tokenizer, str(name), shown_revision, kind)


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise UsageError(f"Unknown dtype {dtype!r}. Expected one of {', '.join(DTYPES)}.{nearest(dtype, DTYPES)}")
    return DTYPES[dtype]


def _device(device: str | torch.device) -> torch.device:
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"Device {device!r} cannot be used here: {str(error).splitlines()[0]} Try --device cpu."
        ) from error
    return where


def _source(name: str, revision: str | None) -> tuple[str, str | None]:
    """Where transformers finds the model, and the revision to report."""
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{name} is a file; expected a model folder, a .gguf file, a hub id or a built-in name.")
        return str(gguf_folder(path)), revision
    if path.is_dir():
        return name, revision
    if name in MODELS:
        return str(builtin_folder(name)), MODELS[name].package.version
    return name, revision


def _loaded(
    name: str, source: str, dtype: torch.dtype, kind: str | None, options: dict[str, Any]
) -> tuple[nn.Module, PreTrainedTokenizerBase, str]:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        kind = kind or _kind_of(config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        module = _auto_class(config, kind).from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise _load_error(name, source, error) from error
    return module, tokenizer, kind


def _auto_class(config: object, kind: str) -> Any:
    """The class that loads a model as `kind`; of an encoder-decoder such as T5, only the encoder."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    if kind == "causal":
        return transformers.AutoModelForCausalLM
    if kind == "masked":
        return transformers.AutoModelForMaskedLM
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return transformers.AutoModelForTextEncoding
    return transformers.AutoModel


def _kind_of(config: object) -> str:
    architectures = getattr(config, "architectures", None) or [""]
    if architectures[0] in _DISCRIMINATORS:
        return "encoder"
    if any(part in architectures[0] for part in ("ForCausalLM", "LMHeadModel")):
        return "causal"
    if any(part in architectures[0] for part in ("ForMaskedLM", "ForPreTraining")):
        return "masked"
    return "encoder"


def _load_error(name: str, source: str, error: Exception) -> ModelError:
    folder = Path(source)
    builtins = f"Built-in models: {', '.join(MODELS)}.{nearest(name, MODELS)}"
    if folder.is_dir():
        pickled = sorted(file.name for file in folder.glob("*.bin")) + sorted(file.name for file in folder.glob("*.pt"))
        if pickled and not list(folder.glob("*.safetensors")):
            return ModelError(
                f"{name} has its weights in {pickled[0]}, a pickle file, which can run code when it is opened; foretune "
                "reads safetensors only. If you trust it, convert it once with `transformers`: load it with "
                f"from_pretrained({name!r}, use_safetensors=False) and call save_pretrained on a new folder."
            )
    first = (str(error).splitlines() or [type(error).__name__])[0]
    offline = os.environ.get("HF_HUB_OFFLINE") or "connect" in str(error).lower() or "offline" in str(error).lower()
    if not folder.exists() and offline:
        return ModelError(
            f"The model {name!r} is not in the local Hugging Face cache and the hub cannot be reached. Give a local "
            f"folder or a .gguf file, or go online once. {builtins}"
        )
    if "safetensors" in str(error):
        return ModelError(
            f"{name} has no safetensors weights ({first}). foretune opens no pickle files; choose a revision that has "
            "safetensors (--revision), or convert the model once with transformers' save_pretrained."
        )
    return ModelError(f"Cannot load the model {name!r}: {first} {builtins}")
