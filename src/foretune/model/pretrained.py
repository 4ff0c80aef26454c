"""The one way into transformers' `from_pretrained`: no pickle is opened, and no code of a model runs unless told to.

What the libraries raise on other people's files becomes a message that says what to do.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foretune.errors import ForetuneError, ModelError, UsageError, nearest
from foretune.model.builtin import MODELS
from foretune.model.kinds import kind_of, loading_class
from foretune.model.load_report import check_finite, check_report
from foretune.model.placement import refuse_packed
from foretune.model.weight_files import check_downloaded, check_weights_folder, odd_expert

_FEWEST_TOKENS = 3
"""Tokens besides the special ones that a vocabulary has at least; transformers makes smaller ones where files lack."""

_ATTENTION = (None, "eager", "sdpa")
"""Ways to compute attention that are part of PyTorch and transformers; others are compiled or come from the hub."""

_PROBE = "A text, \u2603."
"""Holds what a tokenizer may not know."""


@dataclass(frozen=True)
class Source:
    """Where a model is, and what may be done to load it.

    Attributes:
        name: what the user calls it.
        place: a folder, or a hub id.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that comes with the model.
        gguf_file: the name of a GGUF file in the folder that holds everything.
        online: ask the hub, not only the local cache of it.
    """

    name: str
    place: str
    revision: str | None = None
    trust_remote_code: bool = False
    gguf_file: str | None = None
    online: bool = True

    @property
    def local(self) -> bool:
        """Whether it is a folder here."""
        return Path(self.place).is_dir()

    def snapshot(self, config: Any) -> Path | None:
        """Where the hub's client keeps the files that it downloaded for a configuration; None where that is not known."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.place, "config.json", revision=getattr(config, "_commit_hash", None))
        return Path(found).parent if isinstance(found, str) else None

    def load(self, loader: Any, **options: Any) -> Any:
        """`loader.from_pretrained` on this source: every load goes through here.

        Raises:
            ModelError: whatever the library raises, with what to do about it.
            UsageError: there is no such model.
        """
        safe: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if self.revision is not None and not self.local:
            safe["revision"] = self.revision
        if self.gguf_file is not None:
            safe["gguf_file"] = self.gguf_file
        if not self.local and not self.online:
            safe["local_files_only"] = True
        try:
            return loader.from_pretrained(self.place, **safe, **options)
        except (ForetuneError, MemoryError):
            raise
        except Exception as error:  # files of other people, read by five libraries
            raise _load_error(self, error) from error


def loaded_parts(source: Source, dtype: torch.dtype, kind: str | None) -> tuple[Any, Any, Any, str]:
    """Configuration, tokenizer, model, and what the model was loaded as.

    Raises:
        ModelError: a part cannot be loaded, is damaged, or lacks what the outputs depend on.
        NonFiniteError: weights that the outputs depend on are infinite or undefined.
    """
    import transformers

    if source.local and source.gguf_file is None:
        check_weights_folder(source.name, Path(source.place))
    config = source.load(transformers.AutoConfig)
    kind = kind or kind_of(config)
    tokenizer = source.load(transformers.AutoTokenizer)
    _check_tokenizer(source.name, tokenizer)
    loader, options = loading_class(config, kind)
    options |= _attention(source.name, config)
    weights = {} if source.gguf_file is not None else {"use_safetensors": True}
    module, report = source.load(
        loader, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **weights, **options
    )
    refuse_packed(source.name, module)
    check_report(source.name, module, report, kind)
    check_finite(source.name, module, dtype)
    snapshot = None if source.local else source.snapshot(config)
    if snapshot is not None:
        check_downloaded(source.name, snapshot)
    return config, tokenizer, module, kind


def _attention(name: str, config: Any) -> dict[str, str]:
    """The option that takes the place of a way to compute attention that config.json names and that is not plain."""
    parts = (config, *(getattr(config, part, None) for part in getattr(config, "sub_configs", {})))
    named = [getattr(part, "_attn_implementation", None) for part in parts]
    other = next((each for each in named if each not in _ATTENTION), None)
    if other is None:
        return {}
    warnings.warn(
        f"The config.json of {name} asks for attention by {str(other)!r}, which can be code from elsewhere. It is computed "
        "in the plain way instead (attn_implementation='eager').",
        stacklevel=4,
    )
    return {"attn_implementation": "eager"}


def _check_tokenizer(name: str, tokenizer: Any) -> None:
    """See that a tokenizer reads a text, and has words.

    Raises:
        ModelError: it does not, or has special tokens only, which transformers makes up where a folder lacks its files.
    """
    try:
        tokenizer(_PROBE)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise ModelError(
            f"The tokenizer of {name} cannot read a text ({error}). Put the model's own tokenizer files beside it."
        ) from error
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    if len(words) < _FEWEST_TOKENS:
        raise ModelError(
            f"The tokenizer of {name} has no vocabulary: {len(tokenizer)} tokens, all of them special. Put its files "
            "beside the model: tokenizer.json and tokenizer_config.json, as tokenizer.save_pretrained writes them."
        )


def _load_error(source: Source, error: Exception) -> ModelError | UsageError:
    """What a library's error while loading means for the user; a name that leads to no model is one that was mistyped."""
    name, text = source.name, str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    if "trust_remote_code" in text or "custom code" in text:
        return ModelError(
            f"{name} comes with its own Python code, which runs only if you allow it: --trust-remote-code "
            "(trust_remote_code=True). Read the code first; it can do anything on this machine."
        )
    if isinstance(error, (LookupError, AttributeError, TypeError)):
        first = f"{type(error).__name__}: {first}"
    first = first.removesuffix(".").replace(f"{source.place}/", "")
    if source.gguf_file is not None:
        return ModelError(
            f"Cannot read the GGUF file {name}: {first}. It is damaged, cut short, or of a kind that transformers does not "
            "know. Copy or download it again, or take the model as safetensors."
        )
    if "conversion of the weights" in text:
        odd = odd_expert(Path(source.place)) if source.local else ""
        return ModelError(
            f"The weights of the experts in {name} do not fit together{f': {odd}' if odd else ''}. Expected the same "
            "tensors of the same shapes for every expert. Copy or download the weights again, with their own config.json."
        )
    if source.local:
        return ModelError(f"Cannot load the model {name!r}: {first}. {_hint(error)}")
    known = f" Built-in models: {', '.join(MODELS)}.{nearest(name.lower(), MODELS)}"
    if name.endswith(".gguf") or name.startswith((".", "/", "~")) or name.count("/") > 1:
        return UsageError(f"There is no model folder or .gguf file {name}. Check the path.")
    if "not a valid model identifier" in text:
        return UsageError(
            f"There is no model {name!r}: it is neither a folder here nor a model on the hub that may be read without or "
            f"with your token.{known}"
        )
    if "safetensors" in text and "connect" not in text.lower():
        return ModelError(
            f"{name} has no safetensors weights ({first}). foretune opens no pickle files; choose a revision that has "
            "safetensors (--revision), or convert the model once with transformers' save_pretrained."
        )
    if not source.online:
        return ModelError(
            f"The model {name!r} is not in the local Hugging Face cache and the hub cannot be reached. Give a local "
            f"folder or a .gguf file, or go online once.{known}"
        )
    return ModelError(f"Cannot load the model {name!r}: {first}.{known}")


def _hint(error: Exception) -> str:
    """What to look at when a folder cannot be loaded."""
    if type(error).__name__.startswith("StrictDataclass"):
        return "A value in config.json has the wrong type."
    if "allocate memory" in str(error):
        return "The sizes in config.json ask for more memory than there is."
    if isinstance(error, ImportError):
        return "Install what is named, or choose another model."
    return "Check its config.json and tokenizer files, or copy them again."
