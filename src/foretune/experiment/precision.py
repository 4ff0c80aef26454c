"""How far a model in half precision is off: its outputs and kernel on a few rows, against the same weights in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from foretune.experiment.experiment import Experiment
from foretune.finetune.copies import outputs_on
from foretune.kernels.budget import free_memory
from foretune.kernels.compute import kernels_of
from foretune.kernels.job import separate_job
from foretune.kernels.memory_plan import memory_text
from foretune.kernels.sgd import SGD
from foretune.model.batches import outputs_and_features
from foretune.model.load import HALF
from foretune.model.outputs import Outputs
from foretune.model.sharing import precise_copy
from foretune.shapes import Float64
from foretune.store.kept import identity_hash

ROWS = 8
"""Training rows that it is measured on, fewer where there are several outputs."""
_SHARE = 0.5
"""Of the free memory that a copy in float32 may take."""


@dataclass(frozen=True)
class PrecisionError:
    """How far half precision is off.

    Attributes:
        rows: examples that it was measured on.
        outputs: relative error of their pretrained outputs, ||f' - f|| / ||f||.
        kernel: relative error of their kernel, in the Frobenius norm.
    """

    rows: int
    outputs: float
    kernel: float


def precision_note(experiment: Experiment, blocks: Sequence[str]) -> tuple[str, ...]:
    """How far a model in half precision is off, in a sentence; nothing for a finer one. What is measured is kept.

    Args:
        experiment: model and examples.
        blocks: the parameters whose kernel counts.
    """
    lm = experiment.outputs.lm
    if lm.dtype not in HALF:
        return ()
    name = str(lm.dtype).removeprefix("torch.")
    needed = 4 * sum(parameter.numel() for parameter in lm.module.parameters())
    if needed > _SHARE * free_memory(lm.device):
        return (f"How far {name} is off was not measured: a copy in float32 takes {memory_text(needed)} more.",)
    key = {"blocks": identity_hash({"blocks": list(blocks)}), "rows": ROWS}
    found = PrecisionError(**experiment.value("precision", key, lambda: asdict(_measured(experiment, blocks))))
    return (
        f"On {found.rows} training rows, {name} against the same weights in float32: outputs are off by "
        f"{found.outputs:.1%}, the kernel by {found.kernel:.1%}.",
    )


def _measured(experiment: Experiment, blocks: Sequence[str]) -> PrecisionError:
    outputs = experiment.outputs
    lm = replace(outputs.lm, module=precise_copy(outputs.lm.module))
    for parameter, original in zip(lm.module.parameters(), outputs.lm.module.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
    few = experiment.split.train[: max(2, ROWS // outputs.n_outputs)]

    def both(of: Outputs) -> tuple[Float64[np.ndarray, "n c"], Float64[np.ndarray, "n c m d"]]:
        job = separate_job(of, few, None, list(blocks))
        return outputs_and_features(of, few).outputs, kernels_of(job, [SGD()], experiment.work.memory)["sgd"].total()

    (f, kernel), (true_f, true_kernel) = both(outputs), both(outputs_on(lm, outputs))
    return PrecisionError(len(few), _off(f, true_f), _off(kernel, true_kernel))


def _off(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(found - true) / (np.linalg.norm(true) or 1.0))
