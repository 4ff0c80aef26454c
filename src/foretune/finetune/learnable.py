"""Whether training can change what a model says of different texts, looked at before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foretune.errors import ModelError
from foretune.gradients.plain import visit_gradients
from foretune.model.encoding import Encoded
from foretune.model.outputs import Outputs

_ROUNDING = 1e-5
_SHOWN = 3


def refuse_unlearnable(outputs: Outputs, trained: Mapping[str, Tensor], encoded: Sequence[Encoded]) -> None:
    """See that what is trained moves the outputs, and not those of all training examples alike.

    Examples are looked at one after the other until two differ in a gradient: of most models, the first two.

    Args:
        outputs: the function that is trained.
        trained: name -> parameter.
        encoded: the training examples.

    Raises:
        ModelError: every gradient is zero, or gradients and outputs are the same for all examples.
    """
    first = _gradient(outputs, trained, encoded[0])
    if any(_differ(first, _gradient(outputs, trained, other)) for other in encoded[1:]):
        return
    names = ", ".join(list(trained)[:_SHOWN]) + (" and others" if len(trained) > _SHOWN else "")
    if not any(gradient.any() for gradient in first.values()):
        raise ModelError(
            f"There is nothing to train: the gradients of all {len(trained)} parameters that take part ({names}) are zero "
            "on every training example. Expected a pretrained model with weights that are not zero: load another one, or "
            "choose another --method or other --layers."
        )
    if len(encoded) > 1 and not _outputs_differ(outputs, encoded):
        raise ModelError(
            f"There is nothing to learn: all {len(encoded)} training examples have the same output and the same gradients, "
            "so that after any training every text gets the same answer. Expected a pretrained model that reads these "
            "texts: check that weights, tokenizer and the language of the texts belong together."
        )


def _gradient(outputs: Outputs, trained: Mapping[str, Tensor], example: Encoded) -> dict[str, Tensor]:
    """Each parameter's gradient of a weighted sum of the outputs; without those that have none."""
    weights = torch.arange(1, outputs.n_outputs + 1, dtype=torch.float64)
    found: dict[str, Tensor] = {}
    visit_gradients(outputs, trained, [(example, weights)], lambda name, gradient: found.update({name: gradient}))
    return found


def _differ(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    if one.keys() != other.keys():
        return True
    return any(_far(one[name], other[name]) for name in one)


def _far(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ by more than rounding; what is not finite counts as different."""
    return not (one - other).abs().max() <= _ROUNDING * torch.maximum(one.abs().max(), other.abs().max())


@torch.no_grad()
def _outputs_differ(outputs: Outputs, encoded: Sequence[Encoded]) -> bool:
    first = outputs.forward(outputs.collate([encoded[0]]))
    return any(_far(first, outputs.forward(outputs.collate([other]))) for other in encoded[1:])
