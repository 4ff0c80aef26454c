"""A kernel problem as matrices: n examples with c outputs each are n * c rows, example i's output a in row `i * c + a`.

Malladi et al. 2023, Appendix A.3: "each logit is treated as an independent output of the network", so that a kernel of n
examples has the shape (n c, n c) and sees how the outputs of different classes relate; two classes may share one
difference output f_1 - f_0, for which c = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretune.analysis.feature_kernel import FeatureMatrix, Matrix
from foretune.analysis.spectrum import Spectrum
from foretune.errors import UsageError
from foretune.shapes import Float, Float64, Int


@dataclass(frozen=True)
class Problem:
    """What a solver is fitted to.

    Attributes:
        matrix: the training kernel as a matrix.
        y: place of each example's label in `classes`.
        classes: the labels, ascending.
        outputs: number of outputs c.
        f0: pretrained outputs, if there are any.
        eigen: spectrum of the matrix, where it is known already.
    """

    matrix: Matrix
    y: Int[np.ndarray, " n"]
    classes: np.ndarray
    outputs: int
    f0: Float64[np.ndarray, "n c"] | None
    eigen: Spectrum | None = None


def sample_major(kernel: Float[np.ndarray, "n c m d"]) -> Float[np.ndarray, "n m c d"]:
    """A kernel as this package computes it, with the examples first: what scikit-learn's cross-validation can slice."""
    return kernel.transpose(0, 2, 1, 3)


def posed(x: np.ndarray | FeatureMatrix, y: np.ndarray, f0: np.ndarray | None) -> Problem:
    """The problem that a training kernel of any accepted form, labels and pretrained outputs pose.

    Args:
        x: (n, n), (n c, n c) or (n, n, c, c), or a matrix of features.
        y: n labels. Fewer labels than outputs ask for must be class numbers below their count.
        f0: (n, c).

    Raises:
        UsageError: a shape does not fit, or a number is not finite.
    """
    y = np.asarray(y)
    if y.ndim != 1 or not len(y):
        raise UsageError(f"The labels have shape {y.shape}; expected one label per example, (n,).")
    matrix, shape = _matrix(x), tuple(np.shape(x))
    if matrix.shape[0] != matrix.shape[1]:
        raise UsageError(f"A training kernel has to be square, got shape {np.shape(x)}: examples against themselves.")
    outputs, rest = divmod(len(matrix), len(y))
    if rest or not outputs or (len(shape) == 4 and outputs != shape[2]):
        raise UsageError(
            f"A kernel of shape {np.shape(x)} does not fit {len(y)} labels; expected (n, n), (n * c, n * c) or "
            "(n, n, c, c) for n labels and c outputs."
        )
    classes = _classes(y, outputs)
    return Problem(
        matrix,
        np.searchsorted(classes, y),
        classes,
        outputs,
        None if f0 is None else checked_outputs(f0, len(y), outputs),
    )


def cross_matrix(x: np.ndarray | FeatureMatrix, n: int, outputs: int) -> Matrix:
    """The matrix of new examples against n training examples, from (m, n), (m c, n c) or (m, n, c, c).

    Raises:
        UsageError: the shape does not fit, or a number is not finite.
    """
    matrix, shape = _matrix(x), tuple(np.shape(x))
    if matrix.shape[1] != n * outputs or len(matrix) % outputs or (len(shape) == 4 and shape[2] != outputs):
        raise UsageError(
            f"A kernel of shape {np.shape(x)} does not fit {n} training examples with {outputs} outputs; expected "
            f"(m * {outputs}, {n * outputs}) or (m, {n}, {outputs}, {outputs}): new examples against training examples."
        )
    return matrix


def checked_outputs(f0: np.ndarray, n: int, outputs: int) -> Float64[np.ndarray, "n c"]:
    """Pretrained outputs, checked.

    Raises:
        UsageError: the shape is not (n, c), or a number is not finite.
    """
    values = np.asarray(f0, dtype=np.float64)
    if values.shape != (n, outputs):
        raise UsageError(f"The pretrained outputs f0 have shape {values.shape}; expected {(n, outputs)}.")
    _refuse_undefined(values, "The pretrained outputs f0")
    return values


def _matrix(x: np.ndarray | FeatureMatrix) -> Matrix:
    if isinstance(x, FeatureMatrix):
        if not x.finite:
            raise UsageError(f"The kernel of shape {x.shape} has features that are undefined or infinite.")
        return x
    kernel = np.asarray(x, dtype=np.float64)
    if kernel.ndim == 4 and kernel.shape[2] == kernel.shape[3]:
        m, n, c, _ = kernel.shape
        matrix = kernel.transpose(0, 2, 1, 3).reshape(m * c, n * c)
    elif kernel.ndim == 2:
        matrix = kernel
    else:
        hint = " Bring an (n, c, m, c) kernel into that order with sample_major(kernel)." if kernel.ndim == 4 else ""
        raise UsageError(f"A kernel has shape (m, n), (m * c, n * c) or (m, n, c, c), got shape {kernel.shape}.{hint}")
    _refuse_undefined(kernel, "The kernel")
    return matrix


def _refuse_undefined(values: np.ndarray, what: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        raise UsageError(f"{what} of shape {values.shape}: {int((~finite).sum())} entries are undefined or infinite.")


def _classes(y: np.ndarray, outputs: int) -> np.ndarray:
    """The labels in order: those that occur, or all class numbers when some do not occur."""
    found, wanted = np.unique(y), max(outputs, 2)
    if len(found) == wanted:
        return found
    if len(found) < wanted and np.issubdtype(y.dtype, np.integer) and found[0] >= 0 and found[-1] < wanted:
        return np.arange(wanted)
    form = "one difference output stands for two labels" if outputs == 1 else "each output stands for one label"
    raise UsageError(
        f"{len(found)} different labels, {outputs} output(s) per example: {form}. Expected {wanted} labels, or class "
        f"numbers from 0 to {wanted - 1}."
    )
