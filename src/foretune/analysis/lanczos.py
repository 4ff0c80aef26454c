r"""The spectrum of a kernel that is too large to hold, from products K v alone.

    lambda_max, lambda_min    Lanczos iterations (ARPACK by way of `scipy.sparse.linalg.eigsh`)
    tr K                      v'Kv + mean_k z_k' P K P z_k,  P = I - v v',  z_k = random signs

The trace estimate is Hutchinson's (1989) with the leading eigenvector v taken out first, as Hutch++ (Meyer et al. 2021)
takes out a subspace: exact in the direction that dominates a tangent kernel, unbiased for any unit v. A kernel of no more
rows than probes is multiplied out, and everything is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import eye_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, aslinearoperator, eigsh

from foretune.analysis.spectrum import spectrum
from foretune.errors import UsageError
from foretune.shapes import Float64


@dataclass(frozen=True)
class Eigenvalue:
    """An extreme eigenvalue of a kernel.

    Attributes:
        value: the eigenvalue, clipped at zero.
        residual: ||K v - value v|| of the unit eigenvector found: some eigenvalue of K is this close to `value`.
    """

    value: float
    residual: float


@dataclass(frozen=True)
class IterativeSpectrum:
    """What products with a kernel say of its spectrum.

    Attributes:
        size: rows of the kernel, N * C.
        largest: the largest eigenvalue, lambda_max.
        smallest: lambda_min, if it was asked for.
        trace: the sum of the eigenvalues.
        trace_error: standard error of the trace over the probes; zero where the trace is exact.
        probes: random vectors for the trace.
        products: products with the kernel that were taken.
        seed: seed of the start vector and the probes.
    """

    size: int
    largest: Eigenvalue
    smallest: Eigenvalue | None
    trace: float
    trace_error: float
    probes: int
    products: int
    seed: int

    @property
    def effective_rank(self) -> float:
        """Trace / lambda_max; zero for a zero kernel."""
        return self.trace / self.largest.value if self.largest.value else 0.0

    def condition_number(self, sigma: float) -> float:
        """kappa(K + sigma I) (Afzal et al. 2024, below eq. 7); infinite for a singular matrix.

        Raises:
            UsageError: the smallest eigenvalue was not asked for.
        """
        if self.smallest is None:
            raise UsageError("The smallest eigenvalue is not known. Call iterative_spectrum(operator, smallest=True).")
        bottom = self.smallest.value + sigma
        return (self.largest.value + sigma) / bottom if bottom else float("inf")


def iterative_spectrum(
    operator: LinearOperator, smallest: bool = False, probes: int = 32, tolerance: float = 1e-6, seed: int = 0
) -> IterativeSpectrum:
    """The extreme eigenvalues, trace and effective rank of a positive semidefinite kernel, from its products.

    Args:
        operator: K, (N C, N C), row `i * c + a` for example i's output a; `matmat` serves the probes all at once.
        smallest: whether lambda_min is wanted too; it takes as many products again, or more.
        probes: random vectors for the trace; its error falls as one over their root.
        tolerance: residual of an eigenvalue, relative to lambda_max.
        seed: of the start vector and the probes.

    Raises:
        UsageError: the operator is not square, symmetric or finite, an argument is out of range, or the iterations did
            not reach the tolerance.
    """
    size = operator.shape[0]
    if operator.shape != (size, size) or size < 1 or probes < 2 or not tolerance > 0:
        raise UsageError(
            f"An operator of shape {operator.shape}, {probes} probes, tolerance {tolerance}; expected a square kernel, "
            "two probes or more, and a positive tolerance."
        )
    counted = _Products(operator)
    if size <= probes:
        return _multiplied_out(counted, smallest, probes, seed)
    generator = np.random.default_rng(seed)
    start = generator.normal(size=size)
    image = counted.matvec(start)
    _refuse_asymmetry(counted, start, image, generator)
    if not image.any():
        nothing = Eigenvalue(0.0, 0.0)
        return IterativeSpectrum(size, nothing, nothing if smallest else None, 0.0, 0.0, probes, counted.taken, seed)
    value, vector = _top(counted, start, tolerance)
    largest = _measured(counted, value, vector)
    bottom = None
    if smallest:
        # the top of value * I - K: a relative tolerance means nothing beside an eigenvalue of zero
        flipped = aslinearoperator(value * eye_array(size)) - counted
        gap, low = _top(flipped, start, tolerance)
        bottom = _measured(counted, value - gap, low)
    signs = generator.choice([-1.0, 1.0], size=(size, probes))
    signs -= np.outer(vector, vector @ signs)
    forms = (signs * counted.matmat(signs)).sum(0)
    trace, error = largest.value + float(forms.mean()), float(forms.std(ddof=1) / np.sqrt(probes))
    return IterativeSpectrum(size, largest, bottom, trace, error, probes, counted.taken, seed)


class _Products(LinearOperator):
    """An operator in float64 that counts the columns it multiplies and refuses undefined results."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(np.dtype(np.float64), operator.shape)
        self.operator = operator
        self.taken = 0

    def _matmat(self, block: np.ndarray) -> Float64[np.ndarray, "k p"]:
        self.taken += block.shape[1]
        product = np.asarray(self.operator.matmat(block), dtype=np.float64)
        if not np.isfinite(product).all():
            raise UsageError(f"A product with the kernel of shape {self.shape} has undefined or infinite entries.")
        return product

    def _matvec(self, vector: np.ndarray) -> Float64[np.ndarray, " k"]:
        return self._matmat(vector.reshape(-1, 1))[:, 0]


def _multiplied_out(counted: _Products, smallest: bool, probes: int, seed: int) -> IterativeSpectrum:
    """The exact answer, from the kernel's columns."""
    size = counted.shape[0]
    eigen = spectrum(counted.matmat(np.eye(size)))
    largest, bottom = (Eigenvalue(value, 0.0) for value in (eigen.largest, eigen.smallest))
    return IterativeSpectrum(size, largest, bottom if smallest else None, eigen.trace, 0.0, probes, counted.taken, seed)


def _refuse_asymmetry(counted: _Products, start: np.ndarray, image: np.ndarray, generator: np.random.Generator) -> None:
    other = generator.normal(size=len(start))
    back = counted.matvec(other)
    scale = np.linalg.norm(start) * np.linalg.norm(back) + np.linalg.norm(other) * np.linalg.norm(image)
    if abs(float(other @ image - start @ back)) > 1e-4 * scale:
        raise UsageError("Lanczos iterations need a symmetric kernel: examples against themselves, and not A-SignGD.")


def _top(operator: LinearOperator, start: np.ndarray, tolerance: float) -> tuple[float, Float64[np.ndarray, " k"]]:
    """The largest eigenvalue and its unit eigenvector."""
    if not operator.matvec(start).any():
        return 0.0, start / np.linalg.norm(start)
    try:
        values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance)  # pyright: ignore[reportArgumentType]
    except ArpackNoConvergence as error:
        raise UsageError(
            f"Lanczos iterations on a kernel of {len(start)} rows did not reach a relative residual of {tolerance:g}. "
            "Raise tolerance, or the operator's precision."
        ) from error
    return float(values[0]), vectors[:, 0]


def _measured(operator: LinearOperator, value: float, vector: Float64[np.ndarray, " k"]) -> Eigenvalue:
    """An eigenvalue with the residual that its vector leaves."""
    return Eigenvalue(max(value, 0.0), float(np.linalg.norm(operator.matvec(vector) - value * vector)))
