"""The classes of transformers in which a model may be trained, without their weights.

A forecast reads one class, a user may train another: the bare body that foretune reads with a classification head is
loaded with `AutoModelForSequenceClassification`. Names of modules differ between them by the path of the body.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from foretune.model.load import LanguageModel
from foretune.model.sharing import weightless_copy

CLASSIFIER = "AutoModelForSequenceClassification"


@dataclass(frozen=True)
class ModelClass:
    """A model of one class on the meta device: modules and shapes, no values.

    Attributes:
        name: name of the class that loads it, such as `AutoModelForCausalLM`.
        module: the model, without weights.
        body: path of the transformer body inside; empty for the body itself.
        loaded: whether it is the class that the language model was loaded as.
    """

    name: str
    module: Any = field(repr=False)
    body: str
    loaded: bool

    def modules(self) -> set[str]:
        """The paths of all modules."""
        return {path for path, _ in self.module.named_modules() if path}

    def inside(self, path: str) -> str | None:
        """A module's path within the body; None outside of it."""
        prefix = f"{self.body}." if self.body else ""
        return path.removeprefix(prefix) if path.startswith(prefix) else None

    def behind_body(self) -> list[str]:
        """The parameters outside of the body, such as those of a classification head."""
        inner = {id(tensor) for tensor in self.module.get_submodule(self.body).parameters()}
        return [name for name, tensor in self.module.named_parameters() if id(tensor) not in inner]

    def there(self, paths: Iterable[str], source: ModelClass) -> dict[str, str]:
        """The paths of another class's modules -> their paths here; those without a counterpart are left out.

        Args:
            paths: of modules of `source`.
            source: the class that they are of.
        """
        known, found = self.modules(), {}
        for path in paths:
            inside = source.inside(path)
            here = path if inside is None else ".".join(part for part in (self.body, inside) if part)
            if here in known and (inside is None) == (self.inside(here) is None):
                found[path] = here
        return found


def loaded_class(lm: LanguageModel) -> ModelClass:
    """The class of a loaded model."""
    module: Any = lm.module
    known = [
        name for name, mapping in _mappings().items() if _built_by(mapping, getattr(module, "config", None), module)
    ]
    return _class((known or [type(module).__name__])[0], weightless_copy(module), loaded=True)


def model_classes(lm: LanguageModel) -> tuple[ModelClass, ...]:
    """The class of a loaded model, then every other one of transformers that its configuration can be loaded as.

    A class that transformers cannot build from the configuration alone is left out.
    """
    import transformers

    config, first = getattr(lm.module, "config", None), loaded_class(lm)
    others = []
    for name, mapping in _mappings().items():
        if name == first.name or type(config) not in mapping:
            continue
        try:
            with torch.device("meta"):
                made = getattr(transformers, name).from_config(copy.deepcopy(config))
        except (AttributeError, ImportError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
            continue
        others.append(_class(name, made, loaded=False))
    return (first, *others)


def _class(name: str, module: Any, *, loaded: bool) -> ModelClass:
    body = getattr(module, "base_model", module)
    path = next((path for path, part in module.named_modules() if part is body), "")
    return ModelClass(name, module, path, loaded)


def _built_by(mapping: Any, config: object, module: object) -> bool:
    """Whether a loading class makes models of this class from such a configuration."""
    made = mapping.get(type(config), ())
    return type(module) in (made if isinstance(made, tuple) else (made,))


def _mappings() -> Mapping[str, Any]:
    """Loading class -> the configurations that it knows."""
    from transformers.models.auto import modeling_auto as auto

    return {
        "AutoModel": auto.MODEL_MAPPING,
        "AutoModelForCausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        "AutoModelForMaskedLM": auto.MODEL_FOR_MASKED_LM_MAPPING,
        CLASSIFIER: auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    }
