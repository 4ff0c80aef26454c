"""Which parameters take part: what each of them is, and the usual ways to choose some.

Malladi et al. 2023 and its neighbours vary the trained set: without embeddings, without the head, biases only (BitFit),
adapters only, or some layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foretune.errors import UsageError
from foretune.naming import layer_number, layer_path

if TYPE_CHECKING:  # torch is imported where it is used, so that the command line knows the filter without it
    from torch import nn

KINDS = ("linear", "bypassed", "embedding", "output", "bias", "other")


def parameter_kind(owner: nn.Module, attribute: str, output_layer: nn.Module) -> str:
    """What a parameter is: weight of a linear layer, an embedding table or the output layer, a bias, or something else."""
    from torch import nn

    if attribute == "bias":
        return "bias"
    if attribute == "weight" and owner is output_layer:
        return "output"
    if attribute == "weight" and (isinstance(owner, nn.Embedding) or type(owner).__name__.endswith("Embedding")):
        return "embedding"
    if attribute == "weight" and (isinstance(owner, nn.Linear) or holds_outputs_in_columns(owner)):
        return "linear"
    return "other"


def holds_outputs_in_columns(layer: nn.Module) -> bool:
    """Whether the weight of a linear layer is (inputs, outputs), as GPT-2's Conv1D has it, not (outputs, inputs)."""
    return type(layer).__name__ == "Conv1D"


@dataclass(frozen=True)
class ParameterFilter:
    """The usual choices of parameters.

    Attributes:
        embeddings: keep embedding tables.
        head: keep what stands behind the transformer body: a classification head, or the head of a language model.
        biases_only: use only biases (BitFit).
        lora_only: use only the adapters of a peft model.
        layers: use only these layers, by number.
    """

    embeddings: bool = True
    head: bool = True
    biases_only: bool = False
    lora_only: bool = False
    layers: tuple[int, ...] | None = None

    def names(self, kinds: Mapping[str, str], body: Iterable[str]) -> list[str]:
        """The parameters that are left.

        Args:
            kinds: parameter -> kind, `outputs.kinds()`.
            body: the parameters of the transformer body, `outputs.body()`.

        Raises:
            UsageError: none is left, or a layer number that does not exist.
        """
        inside = set(body)
        numbers = {name: layer_number(path) for name in kinds if (path := layer_path(name)) is not None}
        unknown = sorted(set(self.layers or ()) - set(numbers.values()))
        if unknown:
            known = f"0 to {max(numbers.values())}" if numbers else "none"
            raise UsageError(f"There is no layer {unknown[0]}; the layers whose parameters take part are {known}.")
        left = [
            name
            for name, kind in kinds.items()
            if (self.embeddings or kind != "embedding")
            and (self.head or name in inside)
            and (not self.biases_only or kind == "bias")
            and (not self.lora_only or "lora_" in name)
            and (self.layers is None or numbers.get(name) in self.layers)
        ]
        if not left:
            raise UsageError(f"{self} leaves none of {len(kinds)} parameters. Loosen one of its conditions.")
        return left
