r"""A kernel held as features: `K[i, a, j, e] = phi(x_i)[a] . psi(x_j)[e]`, with the axes of an array, never multiplied out.

Where a kernel of n examples would be (n c)^2 numbers, its features are n c k. What the analysis does with a kernel works on
them: indexing examples, exchanging the sides, adding, products with vectors. The spectrum is that of the k x k Gram of
features (the primal): for `Phi = U S V'`

    K = U S^2 U',    U = Phi V / S,    y' (K + sigma I)^-1 y = (y'y - y'Phi (sigma I + Phi'Phi)^-1 Phi'y) / sigma

so that ridge and logistic regression, gradient descent and Adam cost n c k a product instead of (n c)^2. Products are in
the features' own precision, Grams in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from foretune.errors import UsageError
from foretune.shapes import Float, Float64

Index = slice | np.ndarray


@dataclass(frozen=True, eq=False)
class FeatureKernel:
    """A kernel with axes (n, c, m, d).

    Attributes:
        left: features of the rows.
        right: features of the columns.
    """

    left: Float[np.ndarray, "n c k"]
    right: Float[np.ndarray, "m d k"]

    @classmethod
    def joint(cls, features: Float[np.ndarray, "e c k"], n: int) -> FeatureKernel:
        """Of the first n examples against all."""
        return cls(features[:n], features)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, c, m, d)."""
        return (*self.left.shape[:2], *self.right.shape[:2])

    def __getitem__(self, index: Index | tuple[Index, ...]) -> FeatureKernel:
        """Some examples of the rows, and of the columns: `kernel[rows]`, `kernel[:, :, columns]`."""
        rows, outputs, columns, *more = (*(index if isinstance(index, tuple) else (index,)), *[slice(None)] * 4)
        if outputs != slice(None) or any(each != slice(None) for each in more):
            raise UsageError("Features can be indexed by examples only, not by outputs.")
        return FeatureKernel(self.left[rows], self.right[columns])

    def transpose(self, *axes: int) -> FeatureKernel:
        """The sides exchanged, `transpose(2, 3, 0, 1)`."""
        if axes != (2, 3, 0, 1):
            raise UsageError(f"Features can exchange their sides, transpose(2, 3, 0, 1), not {axes}.")
        return FeatureKernel(self.right, self.left)

    def reshape(self, *shape: int) -> FeatureMatrix:
        """As a matrix: row `i * c + a`, column `j * d + e`."""
        k = self.left.shape[-1]
        return FeatureMatrix(self.left.reshape(-1, k), self.right.reshape(-1, k))

    def __add__(self, other: FeatureKernel) -> FeatureKernel:
        """The sum: features side by side."""
        return FeatureKernel(
            np.concatenate([self.left, other.left], axis=2), np.concatenate([self.right, other.right], axis=2)
        )

    def __mul__(self, factor: float) -> FeatureKernel:
        """A multiple."""
        return FeatureKernel(self.left * np.float32(factor), self.right)

    __rmul__ = __mul__

    def dense(self) -> Float64[np.ndarray, "n c m d"]:
        """The array."""
        return self.reshape().dense().reshape(self.shape)


@dataclass(frozen=True, eq=False)
class FeatureMatrix:
    """A matrix `left @ right.T`.

    Attributes:
        left: features of the rows.
        right: features of the columns.
    """

    left: Float[np.ndarray, "r k"]
    right: Float[np.ndarray, "s k"]

    __array_ufunc__ = None
    """numpy leaves `array @ matrix` to this class."""

    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.left), len(self.right)

    def __len__(self) -> int:
        """Rows."""
        return len(self.left)

    @property
    def T(self) -> FeatureMatrix:  # noqa: N802 - as of an array
        """The transpose."""
        return FeatureMatrix(self.right, self.left)

    def __getitem__(self, rows: Index) -> FeatureMatrix:
        """Some rows."""
        return FeatureMatrix(self.left[rows], self.right)

    def __matmul__(self, other: np.ndarray) -> np.ndarray:
        """A product with a vector or a matrix, in the precision of the features."""
        return (self.left @ (self.right.T @ other.astype(self.right.dtype))).astype(np.float64)

    def __rmatmul__(self, other: np.ndarray) -> np.ndarray:
        """The same from the left."""
        return ((other.astype(self.left.dtype) @ self.left) @ self.right.T).astype(np.float64)

    @property
    def square(self) -> bool:
        """Whether rows and columns are the same, so that the matrix is symmetric."""
        return self.left.shape == self.right.shape and bool(
            self.left is self.right or np.shares_memory(self.left, self.right) or (self.left == self.right).all()
        )

    def any(self) -> bool:
        """Whether a row and a column have features that are not zero."""
        return bool(self.left.any() and self.right.any())

    @property
    def finite(self) -> bool:
        """Whether every feature is."""
        return bool(np.isfinite(self.left).all() and np.isfinite(self.right).all())

    @property
    def gram(self) -> Float64[np.ndarray, "k k"]:
        """The Gram of the features of the rows, whose eigenvalues are those of the matrix where it is symmetric."""
        left = self.left.astype(np.float64)
        return left.T @ left

    def dense(self) -> Float64[np.ndarray, "r s"]:
        """The array."""
        return (self.left @ self.right.T).astype(np.float64)


Kernel = Float[np.ndarray, "_ _ _ _"] | FeatureKernel
Matrix = Float64[np.ndarray, "_ _"] | FeatureMatrix


def centred(kernel: Kernel) -> Kernel:
    """A training kernel with the mean over examples taken from both sides, for each output."""
    if isinstance(kernel, FeatureKernel):
        left, right = (side - side.mean(0, keepdims=True) for side in (kernel.left, kernel.right))
        return FeatureKernel(left, right)
    found = kernel - kernel.mean(0, keepdims=True)
    return found - found.mean(2, keepdims=True)


def refuse_undefined(kernel: np.ndarray | FeatureKernel | FeatureMatrix) -> None:
    """See that every number of a kernel is finite: numpy's decompositions answer with what is not.

    Raises:
        UsageError: one is not.
    """
    held = [kernel.left, kernel.right] if isinstance(kernel, FeatureKernel | FeatureMatrix) else [kernel]
    undefined = sum(int((~np.isfinite(each)).sum()) for each in held)
    if undefined:
        raise UsageError(f"The kernel of shape {kernel.shape} has {undefined} undefined entries.")


def dense(kernel: Kernel | Matrix) -> np.ndarray:
    """The array."""
    return kernel.dense() if isinstance(kernel, FeatureKernel | FeatureMatrix) else kernel


def scaled(matrix: Matrix, rows: Float64[np.ndarray, " r"] | None, columns: Float64[np.ndarray, " s"]) -> Matrix:
    """The matrix with each row, where factors for them come, and each column times a factor."""
    if isinstance(matrix, FeatureMatrix):
        right = matrix.right * columns[:, None].astype(matrix.right.dtype)
        left = matrix.left if rows is None else matrix.left * rows[:, None].astype(matrix.left.dtype)
        return FeatureMatrix(left, right)
    found = matrix * columns
    return found if rows is None else found * rows[:, None]


def frobenius(matrix: Matrix) -> float:
    """The Frobenius norm."""
    if isinstance(matrix, FeatureMatrix):
        right = matrix.right.astype(np.float64)
        return float(np.sqrt(max(np.vdot(matrix.gram, right.T @ right), 0.0)))
    return float(np.linalg.norm(matrix))


MOST = 1024
"""Features of a sum over blocks at most: more are mixed."""
_KEPT = 64
"""Of these, how many tell exactly what the sum has in common with that of a few examples."""
_LEAST = 1e-6
"""Directions of these with less than this share of the largest eigenvalue are rounding."""


def side_by_side(
    blocks: Iterable[tuple[int, Float[np.ndarray, "m c w"]]], width: int, most: int | None = MOST, n: int | None = None
) -> Float[np.ndarray, "m c j"]:
    """The features of the sum of some kernels: those of each side by side, or mixed where they would be many.

    Mixed, each feature is added with a random sign to one of some sums, so that the kernel keeps its expectation. As within
    a block (`foretune.kernels.directions`) what the examples have in common with a few of them is kept exactly beside, and
    only the rest is mixed.

    Args:
        blocks: a number that fixes the signs, and features.
        width: features of all blocks together.
        most: features of the result at most; None for no mixing.
        n: the examples in common with which is kept are among so many, the first; all without it.
    """
    if most is not None and width > most:
        return _mixed(blocks, most, n)
    return np.concatenate([features for _, features in blocks], axis=2)


def _mixed(
    blocks: Iterable[tuple[int, Float[np.ndarray, "m c w"]]], most: int, n: int | None
) -> Float[np.ndarray, "m c j"]:
    sums: np.ndarray = np.empty((0, 0))
    common, rows = sums, np.empty(0, dtype=int)
    m = c = 0
    for place, (number, features) in enumerate(blocks):
        m, c, w = features.shape
        flat = features.reshape(m * c, w)
        if place == 0:
            few = min(_KEPT, most // 4, (n or m) * c)
            rows = np.arange(few) * (n or m) * c // max(few, 1)
            sums, common = np.zeros((m * c, most - few), flat.dtype), np.zeros((m * c, few))
        generator = np.random.default_rng([number, w])
        order, signs = generator.permutation(w), (2 * generator.integers(0, 2, w) - 1).astype(flat.dtype)
        for start in range(0, w, sums.shape[1]):
            chosen = order[start : start + sums.shape[1]]
            into = generator.permutation(sums.shape[1])[: len(chosen)]
            column, sign = np.zeros(sums.shape[1], dtype=int), np.zeros(sums.shape[1], sums.dtype)
            column[into], sign[into] = chosen, signs[chosen]
            sums += np.take(flat, column, axis=1) * sign  # whole rows: three times as fast as some columns
        common += flat @ flat[rows].T
    values, vectors = np.linalg.eigh(common[rows])
    kept = values > _LEAST * max(values[-1:].max(initial=0.0), 0.0)
    root = np.where(kept, vectors / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    spanned = common @ root
    rest = sums - (spanned @ (root.T @ sums[rows])).astype(sums.dtype)
    return np.concatenate([rest, spanned.astype(sums.dtype)], axis=1).reshape(m, c, most)


def weighted_sum(kernels: Sequence[Kernel], weights: Sequence[float]) -> Kernel:
    """The sum of kernels, arrays or features of one size, times weights that are not negative."""
    first = kernels[0]
    if isinstance(first, FeatureKernel):
        features = (kernel.right for kernel in kernels if isinstance(kernel, FeatureKernel))
        scaled = (np.float32(np.sqrt(weight)) * each for each, weight in zip(features, weights, strict=True))
        width, n = sum(k.left.shape[-1] for k in kernels if isinstance(k, FeatureKernel)), len(first.left)
        return FeatureKernel.joint(side_by_side(enumerate(scaled), width, n=n), n)
    total = np.zeros(first.shape)
    for kernel, weight in zip(kernels, weights, strict=True):
        total += weight * dense(kernel)
    return total


def gradient_squares(kernel: Kernel, chi: Float64[np.ndarray, "n c"]) -> tuple[float, float]:
    """`sum_ij chi_i' K(x_i, x_j) chi_j` over training examples, the first columns of a joint kernel, and its part i = j."""
    if isinstance(kernel, FeatureKernel):
        moved = np.einsum("ic,ick->ik", chi, kernel.left)
        return float((moved.sum(0) ** 2).sum()), float((moved**2).sum())
    products = np.einsum("ia,iajd,jd->ij", chi, kernel[:, :, : len(chi)], chi, optimize=True)  # (n, n)
    return float(products.sum()), float(np.trace(products))
