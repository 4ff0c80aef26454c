"""What training sees of a model in the linear regime: kernel, pretrained outputs, labels and loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from foretune.analysis.feature_kernel import FeatureKernel, Kernel, Matrix
from foretune.analysis.losses import LogLoss, OutputLoss, targets
from foretune.errors import UsageError
from foretune.shapes import Float, Float64, Int


@dataclass(frozen=True)
class FunctionSpace:
    """A model in the linear regime.

    The kernel may be held as features.

    A joint kernel (train x all, (n, c, n + m, c)) of a symmetric formula is brought into this form by
    `joint.transpose(2, 3, 0, 1)`.

    Attributes:
        kernel: rows train, then evaluation examples; columns train: (n + m, c, n, c).
        f0: pretrained outputs of all rows, (n + m, c). c = 1 is the difference form f_1 - f_0 of two classes.
        y: class numbers of all rows.
        loss: loss of one example; training minimises its mean.
        validation: how many evaluation examples come first and choose; None for all. The rest are for the test.
        metric: `accuracy`, `f1` or `matthews`.
        counts: how often each training example counts in mean losses; None for once.

    Raises:
        UsageError: a shape does not fit, a number is not finite, or a label is not a class number.
    """

    kernel: Kernel = field(repr=False)
    f0: Float[np.ndarray, "s e"] = field(repr=False)
    y: Int[np.ndarray, " q"] = field(repr=False)
    loss: OutputLoss = field(default_factory=LogLoss)
    validation: int | None = None
    metric: str = "accuracy"
    counts: Int[np.ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        rows, c = self.f0.shape
        if self.kernel.shape != (rows, c, self.n, c) or self.y.shape != (rows,) or not 0 < self.n <= rows:
            raise UsageError(
                f"A kernel of shape {self.kernel.shape}, f0 of shape {self.f0.shape} and y of shape {self.y.shape}; "
                "expected (n + m, c, n, c), (n + m, c) and (n + m,): training rows, then evaluation rows."
            )
        finite = (
            self.kernel.reshape().finite if isinstance(self.kernel, FeatureKernel) else np.isfinite(self.kernel).all()
        )
        if not (finite and np.isfinite(self.f0).all()):
            raise UsageError("The kernel or the pretrained outputs f0 have undefined or infinite entries.")
        classes = max(c, 2)
        if self.y.min() < 0 or self.y.max() >= classes:
            raise UsageError(
                f"Labels run from {self.y.min()} to {self.y.max()}; expected class numbers below {classes}."
            )
        if self.counts is not None and (self.counts.shape != (self.n,) or self.counts.min() < 1):
            raise UsageError(f"counts are {self.counts}; expected one for each of {self.n} training rows, 1 or more.")
        if not 0 <= self.n_validation <= rows - self.n:
            raise UsageError(
                f"validation is {self.validation}, but the kernel has {rows - self.n} evaluation rows; expected no more."
            )

    @property
    def n(self) -> int:
        """Training examples."""
        return self.kernel.shape[2]

    @property
    def n_validation(self) -> int:
        """Validation examples."""
        return len(self.f0) - self.n if self.validation is None else self.validation

    @property
    def targets(self) -> Float64[np.ndarray, "r c"]:
        """One-hot labels, or +-1 for one difference output."""
        return targets(self.y, self.f0.shape[1])

    @property
    def matrix(self) -> Matrix:
        """The kernel with row `i * c + a` for example i's output a, training rows first."""
        if isinstance(self.kernel, FeatureKernel):
            return self.kernel.reshape()
        return np.ascontiguousarray(self.kernel, dtype=np.float64).reshape(self.f0.size, -1)

    @property
    def train_matrix(self) -> Matrix:
        """The rows of the training examples."""
        matrix = self.matrix
        return matrix[slice(matrix.shape[1])]
