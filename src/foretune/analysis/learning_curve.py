r"""The error of a kernel fit by the number of training rows: measured on parts of the rows, and continued beyond.

    error(m) = c + a (m / n)^-b                     power law with a floor (Cortes et al. 1993; Hestness et al. 2017)

Measured: ridge regression is fitted to `DRAWS` random parts of m rows and asked of all others, each fit a direct solve of
the smaller system; all n rows are left out one by one (`analysis.leave_one_out`). Continued: a grid of exponents b and
floors c, each with its best a, is weighed by how well it fits the measured errors (a deviation of `DEVIATION` costs half a
nat), and the weighed mean is the prediction. Its interval has two parts: rows are drawn again with repetition, as the rows
are a sample themselves, and exponent and floor are drawn by their weights. A floor is at most half of the error at n: what
more rows of the same kind cannot mend is rarely more, and a larger one made predictions on other data worse.

Of training: fine-tuning changes the features, and the gradients before it know the first of these changes. Training is
taken to go on from there. With f the error of a fit to the features and g that of a fit to the gradients,

    error = g min(1, g / f)^u                   u = 1; for the interval, u from 0 to `FURTHEST`, each as likely

so that it is g where gradients are no better than features. Its log-odds are spread by `SPREAD` for the interval, because
runs differ from fits there too. No theory gives the two numbers: see docs/results/labels.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.example_kernel import Factors, kernel_factors
from foretune.analysis.leave_one_out import left_out, ridge_left_out
from foretune.shapes import Float64, Int

DRAWS = 8
STEPS = 7
"""Sizes from an eighth of the rows to all, each larger by the square root of two."""
DEVIATION = 0.01
EXPONENTS = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2])
FLOORS = np.array([0.0, 0.25, 0.5])
"""Over the error at n."""
FURTHEST = 2.0
"""How far training goes beyond the gradients at most, over how far these go beyond the features (logarithms of errors)."""
SPREAD = 0.15
"""How far the error of training is from the one that fits tell: one standard deviation of its log-odds."""
_MEASURED, _RESAMPLES, _OF_EACH = 400, 200, 5


@dataclass(frozen=True)
class PartErrors:
    """How often each row is got wrong by fits to parts of the others.

    Attributes:
        sizes: rows of a part, ascending; the last is all.
        errors: share of the fits without the row that get it wrong, NaN where none was without it.
    """

    sizes: Int[np.ndarray, " s"]
    errors: Float64[np.ndarray, "s n"]

    @property
    def mean(self) -> Float64[np.ndarray, " s"]:
        """The error of each size."""
        return np.nanmean(self.errors, axis=1)

    def curve(self, seed: int) -> ErrorCurve:
        """The error of each size, and on rows drawn with repetition; the same seed draws the same rows for two kernels."""
        generator = np.random.default_rng(seed)
        return ErrorCurve(self.mean, np.array([self.resampled(generator) for _ in range(_MEASURED)]))

    def resampled(self, generator: np.random.Generator) -> Float64[np.ndarray, " s"]:
        """The error of each size on rows drawn with repetition."""
        n = self.errors.shape[1]
        return np.nanmean(self.errors[:, generator.integers(0, n, n)], axis=1)


def part_errors(factors: Factors, y: Int[np.ndarray, " n"], classes: int, seed: int) -> PartErrors:
    """The errors of fits to parts of the rows; the ridge of a size is the best by leaving out on its first part.

    Args:
        factors: of the kernel between all rows.
        y: class numbers.
        classes: how many there are.
        seed: of the parts.
    """
    n, kernel = len(y), factors.matrix
    generator = np.random.default_rng(seed)
    sizes = sorted({round(n / 8 * 2 ** (step / 2)) for step in range(STEPS - 1)})
    wanted, found, kept = np.eye(classes)[y], [], []
    for size in sizes:
        parts = [part for part in _parts(generator, y, size) if len(part)]
        if not parts:
            continue
        first = parts[0]
        ridge = ridge_left_out(kernel_factors(kernel[np.ix_(first, first)]), y[first], classes).strength
        wrong, asked = np.zeros(n), np.zeros(n)
        for part in parts:
            others = np.setdiff1d(np.arange(n), part)
            solved = np.linalg.solve(kernel[np.ix_(part, part)] + ridge * np.eye(size), wanted[part])
            outputs = kernel[np.ix_(others, part)] @ solved
            wrong[others] += outputs.argmax(1) != y[others]
            asked[others] += 1
        found.append(np.divide(wrong, asked, out=np.full(n, np.nan), where=asked > 0))
        kept.append(size)
    fit = ridge_left_out(factors, y, classes)
    everything = left_out(factors, wanted, fit.strength).argmax(1) != y
    return PartErrors(np.array([*kept, n]), np.array([*found, everything.astype(float)]))


def _parts(generator: np.random.Generator, y: Int[np.ndarray, " n"], size: int) -> list[Int[np.ndarray, " m"]]:
    """Random parts that have every class."""
    drawn = [np.sort(generator.permutation(len(y))[:size]) for _ in range(DRAWS)]
    return [part for part in drawn if len(set(y[part].tolist())) == len(set(y.tolist()))]


@dataclass(frozen=True)
class ErrorCurve:
    """Errors at some numbers of rows.

    Attributes:
        mean: error at each number of rows.
        draws: errors that are as likely, one row for each draw.
    """

    mean: Float64[np.ndarray, " t"]
    draws: Float64[np.ndarray, "r t"]

    @property
    def interval(self) -> tuple[Float64[np.ndarray, " t"], Float64[np.ndarray, " t"]]:
        """95% interval of each."""
        low, high = np.percentile(self.draws, [2.5, 97.5], axis=0)
        return low, high


def continued(measured: PartErrors, multiples: Sequence[int | float], seed: int) -> ErrorCurve:
    """The learning curve at multiples of the number of rows.

    Args:
        measured: errors up to all rows.
        multiples: of their number; 1 is all rows.
        seed: of the draws: the same seed draws the same rows for two kernels.
    """
    at, draws = np.asarray(multiples, dtype=float), []
    values, weights = _curves(measured.sizes, measured.mean, at)
    for number in range(_RESAMPLES):
        generator = np.random.default_rng([seed, number])
        drawn, likely = _curves(measured.sizes, measured.resampled(generator), at)
        draws.append(drawn[generator.choice(len(drawn), _OF_EACH, p=likely)])
    return ErrorCurve(weights @ values, np.concatenate(draws))


def of_training(gradients: ErrorCurve, features: ErrorCurve, seed: int) -> ErrorCurve:
    """The errors that training is taken to have, from those of fits to gradients and to features.

    Args:
        gradients: errors of a fit to the gradients.
        features: errors of a fit to the features, at the same numbers of rows and on the same rows drawn.
        seed: of how far training goes in each draw.
    """
    generator, count = np.random.default_rng(seed), len(gradients.draws)
    further = generator.uniform(0, FURTHEST, (count, 1))
    odds = np.exp(generator.normal(0, SPREAD, (count, 1)))
    draws = gradients.draws * _left(gradients.draws, features.draws) ** further
    spread = draws * odds / (1 - draws + draws * odds)
    return ErrorCurve(gradients.mean * _left(gradients.mean, features.mean), spread)


def _left(errors: Float64[np.ndarray, "*s"], others: Float64[np.ndarray, "*s"]) -> Float64[np.ndarray, "*s"]:
    """Errors over others; one where they are not smaller."""
    return np.divide(errors, others, out=np.ones_like(errors), where=errors < others)


def _curves(
    sizes: Int[np.ndarray, " s"], errors: Float64[np.ndarray, " s"], at: Float64[np.ndarray, " t"]
) -> tuple[Float64[np.ndarray, "g t"], Float64[np.ndarray, " g"]]:
    """The values of every exponent and floor, and their weights."""
    exponents, floors = (each.reshape(-1, 1) for each in np.meshgrid(EXPONENTS, FLOORS * errors[-1]))
    base = (sizes / sizes[-1]) ** -exponents  # (g, s)
    slopes = np.clip((base * (errors - floors)).sum(1) / (base**2).sum(1), 0, None)[:, None]
    misfit = ((errors - floors - slopes * base) ** 2).sum(1) / (2 * DEVIATION**2)
    weights = np.exp(misfit.min() - misfit)
    return floors + slopes * at**-exponents, weights / weights.sum()
