"""All tests of kernel behaviour on one fine-tuned model: a column of Malladi et al. 2023, Table 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foretune.analysis.kernel_behaviour import AnalogTest, FixedFeatures, KernelBehaviour, Thresholds
from foretune.analysis.kernel_behaviour import fixed_features as distance_between
from foretune.behaviour.linearization import linearization
from foretune.errors import UsageError
from foretune.kernels.block_kernel import BlockKernel, Pattern
from foretune.kernels.compute import block_kernels
from foretune.kernels.formula import Formula
from foretune.model.batches import Rows
from foretune.model.outputs import Outputs
from foretune.progress import Progress
from foretune.shapes import Int
from foretune.text.example import as_examples


def fixed_features(before: BlockKernel, after: BlockKernel) -> FixedFeatures:
    """The distance between the kernels of a model before and after fine-tuning (Definition 2.2, Table 6).

    Args:
        before, after: block kernels of the same examples.

    Raises:
        UsageError: different blocks, examples or outputs.
    """
    if before.names != after.names:
        odd = sorted(set(before.names) ^ set(after.names))[:3]
        raise UsageError(
            f"The kernels have {len(before.names)} and {len(after.names)} blocks{f', {odd} in one only' if odd else ''}; "
            "expected the same blocks in the same order. Choose them with blocks=."
        )
    return distance_between(before.names, before.array, after.array)


def measured_behaviour(
    before: Outputs,
    after: Outputs,
    rows: Rows,
    y: Int[np.ndarray, "n"],
    analogs: Sequence[AnalogTest] = (),
    metric: str = "accuracy",
    formula: Formula | None = None,
    blocks: Pattern | None = None,
    progress: Progress | None = None,
) -> KernelBehaviour:
    """The verdict on a fine-tuned model (Malladi et al. 2023, Table 1): two kernels and one linearization.

    Args:
        before, after: the same outputs of the pretrained and the fine-tuned model.
        rows: n examples, test data in the paper; both kernels are theirs.
        y: class numbers.
        analogs: scores of kernel methods beside fine-tuning, one a setting; with none the task counts as not solved.
        metric: `accuracy`, `f1` or `matthews`.
        formula: of the kernel; `SGD()` when left out, as in Table 6.
        blocks: parameter blocks of the kernel; all trainable ones when left out.
        progress: called as the work goes on.

    Raises:
        UsageError: models that do not match, another number of labels, or no rows.
        NonFiniteError: infinite or undefined outputs or gradients.
    """
    rows = as_examples(rows)
    if len(y) != len(rows):
        raise UsageError(f"{len(rows)} examples and {len(y)} labels; expected one label an example.")
    test = linearization(before, after, rows).test(y, metric)
    kernels = [
        block_kernels(outputs, rows, formula=formula, blocks=blocks, progress=progress) for outputs in (before, after)
    ]
    return KernelBehaviour(tuple(analogs), test, fixed_features(*kernels), Thresholds())
