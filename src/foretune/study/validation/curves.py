r"""Predicted training curves and learning rates of runs with Adam, in function space.

Adam divides each entry's gradient by the root of its running second moment. With one such root for each block b, that of
the entries' mean square over mini-batches of B at the start, it is gradient descent with the rate that Adam has and the
kernel

    K_adam = sum_b w_b K_b,    w_b = (P_b / E||g_b||^2)^1/2
    E||g_b||^2 = ||g_b||^2 + (s_b - ||g_b||^2) (n - B) / (B (n - 1))

    n^2 ||g_b||^2 = chi' K_b chi,    n s_b = sum_i chi_i' K_b(x_i, x_i) chi_i,    P_b entries

where chi = dl/df: the full gradient, and what a batch drawn without replacement adds to it. The roots are kept, though
gradients shrink as the loss falls, and LoRA's A is at rest, as it is at the start: a model of early training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.dynamics import CrossEntropy, GradientDescent, curves
from foretune.analysis.output_derivative import chi
from foretune.finetune.training import Training
from foretune.forecast.inputs import Inputs
from foretune.forecast.simulation import function_space
from foretune.shapes import Float64


@dataclass(frozen=True)
class PredictedRun:
    """The simulated run of one point of a grid.

    Attributes:
        learning_rate: Adam's.
        steps: of the evaluations, the first before training.
        validation_losses: there, nats; infinite once the run has diverged.
    """

    learning_rate: float
    steps: tuple[int, ...]
    validation_losses: tuple[float, ...]

    @property
    def lowest(self) -> float:
        """The smallest validation loss after the start."""
        return min(self.validation_losses[1:])


def adam_kernel(
    parts: Sequence[Float64[np.ndarray, "n c e c"]],
    entries: Sequence[int],
    chi: Float64[np.ndarray, "n c"],
    batch: int,
) -> Float64[np.ndarray, "n c e c"]:
    """The kernel that makes gradient descent step as far as Adam does in each block; see the module.

    Args:
        parts: joint kernels of the blocks.
        entries: numbers in each block that have a gradient at the start.
        chi: derivative of each training example's loss by its outputs.
        batch: examples a step.
    """
    n = len(chi)
    noise = (n - batch) / (batch * (n - 1)) if n > 1 else 0.0
    total = np.zeros_like(parts[0])
    for kernel, count in zip(parts, entries, strict=True):
        products = np.einsum("ia,iajd,jd->ij", chi, kernel[:, :, :n], chi, optimize=True)  # (n, n)
        whole, own = float(products.sum()) / n**2, float(np.trace(products)) / n
        square = whole + (own - whole) * noise
        if square > 0:
            total += np.sqrt(count / square) * kernel
    return total


def predicted_runs(
    parts: Sequence[Float64[np.ndarray, "n c e c"]], entries: Sequence[int], inputs: Inputs, grid: Sequence[Training]
) -> tuple[PredictedRun, ...]:
    """The simulated validation curve of every point of a grid of Adam's.

    Args:
        parts, entries: as in `adam_kernel`.
        inputs: labels and pretrained outputs of training and validation examples.
        grid: settings with AdamW.
    """
    n = inputs.n_train
    derivative = chi(inputs.f0[:n], inputs.y[:n], CrossEntropy())
    found = []
    for training in grid:
        batch, rate = training.batch_of(n), training.optimiser.learning_rate
        space = function_space(adam_kernel(parts, entries, derivative, batch), inputs)
        descent = GradientDescent(rate, batch, seed=training.seed)
        (run,) = curves(space, descent, training.steps_for(n), training.interval(n))
        steps, losses = tuple(map(int, run.steps)), tuple(map(float, run.validation_loss))
        found.append(PredictedRun(rate, steps, losses))
    return tuple(found)


def best_predicted(runs: Sequence[PredictedRun]) -> PredictedRun:
    """The run with the smallest validation loss; of equals the first."""
    return min(runs, key=lambda run: run.lowest)


def curve_distance(predicted: PredictedRun, steps: Sequence[int], losses: Sequence[float]) -> float:
    """Root mean square difference of two validation curves after the start, at the steps that both have, nats."""
    known = dict(zip(predicted.steps, predicted.validation_losses, strict=True))
    pairs = [(known[step], loss) for step, loss in zip(steps, losses, strict=True) if step > 0 and step in known]
    return float(np.sqrt(np.mean([(a - b) ** 2 for a, b in pairs]))) if pairs else float("nan")
