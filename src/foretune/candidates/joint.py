"""Views of a joint kernel, train x (train, validation, test): its linear regime and its training part.

A joint kernel is an array, or held as features (`analysis.feature_kernel`) where the array would be larger than these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from foretune.analysis.dynamics import FunctionSpace, LogLoss
from foretune.analysis.feature_kernel import FeatureKernel, Kernel, Matrix, side_by_side
from foretune.analysis.losses import targets
from foretune.analysis.spectrum import Spectrum, spectrum
from foretune.experiment.inputs import Inputs
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.features import Blocked
from foretune.shapes import Float64

DENSE = 1024
"""Rows of a training kernel, examples times outputs, up to which features are multiplied out."""
_FEW = 256
"""The same where only the first examples are looked at, for many candidates."""


def joint_kernel(kernel: Blocked, names: Sequence[str]) -> Kernel:
    """The joint kernel of some blocks together."""
    return _summed(kernel, names, kernel.shape[1], DENSE)


def _summed(kernel: Blocked, names: Sequence[str], n: int, dense: int, examples: int | None = None) -> Kernel:
    """Of the first n examples against all, or against the first of them; an array up to so many rows."""
    if isinstance(kernel, BlockKernel) or n * kernel.shape[2] <= dense:
        return kernel.summed(names, examples)
    return FeatureKernel.joint(side_by_side(kernel.of(names, examples), kernel.width(names), n=n), n)


class JointParts(Sequence[Kernel]):
    """The joint kernels of some blocks, one by one: features are read when they are asked for, and not held.

    Args:
        blocks: of which kernels, and their names.
    """

    def __init__(self, *blocks: tuple[Blocked, Sequence[str]]) -> None:
        self._blocks = [(kernel, name) for kernel, names in blocks for name in names]

    def __len__(self) -> int:
        """How many."""
        return len(self._blocks)

    @overload
    def __getitem__(self, place: int) -> Kernel: ...

    @overload
    def __getitem__(self, place: slice) -> list[Kernel]: ...

    def __getitem__(self, place: int | slice) -> Kernel | list[Kernel]:
        """The joint kernel of a block."""
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        kernel, name = self._blocks[place]
        if isinstance(kernel, BlockKernel):
            return kernel.array[kernel.names.index(name)]
        return FeatureKernel.joint(next(kernel.of([name]))[1], kernel.n)


def first_examples(kernel: Blocked, names: Sequence[str], examples: int) -> Kernel:
    """The training kernel of some blocks on the first training examples."""
    return _summed(kernel, names, examples, _FEW, examples)


def function_space(joint: Kernel, inputs: Inputs) -> FunctionSpace:
    """The linear regime of a joint kernel: training, validation, then test examples."""
    return FunctionSpace(
        joint.transpose(2, 3, 0, 1), inputs.f0, inputs.y, LogLoss(), inputs.n_validation, inputs.metric
    )


def train_matrix(joint: Kernel) -> Matrix:
    """The training part of a joint kernel as a matrix."""
    n, c = joint.shape[:2]
    return joint[:, :, :n].reshape(n * c, n * c)


def train_spectrum(joint: Kernel) -> Spectrum:
    """The spectrum of the training part of a joint kernel."""
    return spectrum(train_matrix(joint))


def train_targets(inputs: Inputs) -> Float64[np.ndarray, " k"]:
    """Targets of the training examples, example i's output a at `i * c + a`."""
    return targets(inputs.y[: inputs.n_train], inputs.f0.shape[1]).reshape(-1)
