"""Whether the padding of a batch changes what a model computes for its shorter examples.

Attention masks hide padding from most models. Models that mix tokens by Fourier transforms, convolutions or pooling
(FNet, ConvBERT, Funnel) read it all the same, so that an example's values depend on who shares its batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from foretune.model.encoding import Encoded
from foretune.model.load import LanguageModel
from foretune.model.outputs import Outputs

_TOLERANCE = {torch.float64: 3e-6, torch.float32: 2e-4, torch.float16: 0.03, torch.bfloat16: 0.1}
"""Share of the features' norm that rounding may change."""


def one_at_a_time(outputs: Outputs, encoded: Sequence[Encoded]) -> bool:
    """Whether examples must go through the model one at a time, measured once for each `outputs` and remembered.

    The shortest example goes through the model alone and beside the longest. A model for which that makes a
    difference is named in a warning.

    Args:
        outputs: the model as a function.
        encoded: examples; those of one length alone tell nothing.
    """
    with outputs.lock:
        if outputs.alone is None and len({len(item.ids) for item in encoded}) > 1:
            change = _change(outputs, encoded)
            outputs.alone = not change <= _TOLERANCE[working_precision(outputs.lm)]
            if outputs.alone:
                warnings.warn(
                    f"Padding changes what {outputs.lm.name} computes (the features of one text by {change:.0%}), so "
                    "examples go through it one at a time. This is slower.",
                    stacklevel=2,
                )
        return outputs.alone or False


def working_precision(lm: LanguageModel) -> torch.dtype:
    """The coarsest precision that a model computes in: its weights', or autocast's."""
    if torch.is_autocast_enabled(lm.device.type):
        return min(lm.dtype, torch.get_autocast_dtype(lm.device.type), key=lambda dtype: -torch.finfo(dtype).eps)
    return lm.dtype


@torch.inference_mode(False)
def _change(outputs: Outputs, encoded: Sequence[Encoded]) -> float:
    """How far the features of the shortest example move beside the longest, as a share of their norm.

    Features that are not finite even alone are not the padding's fault: 0.
    """
    shortest, longest = (chosen(encoded, key=lambda item: len(item.ids)) for chosen in (min, max))
    _, alone = outputs.logits_and_features(outputs.collate([shortest]))
    _, beside = outputs.logits_and_features(outputs.collate([longest, shortest]))
    if not torch.isfinite(alone[0]).all():
        return 0.0
    return ((beside[1] - alone[0]).double().norm() / alone[0].double().norm()).item()
