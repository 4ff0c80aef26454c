"""What each score says of a placement: ours, and those that people choose by today. Larger is better in all of them.

A new score is one function of `Evidence` and one row of `SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from foretune.analysis.dynamics import BestRun, CrossEntropy, FunctionSpace, GradientDescent, best_run
from foretune.analysis.dynamics.learning_rates import GRID
from foretune.analysis.label_regression import STRENGTHS, label_regression
from foretune.analysis.output_derivative import chi
from foretune.analysis.scores import predicted_classes
from foretune.analysis.solvers import GridPoint, joint_data, named_solver, solved, targets
from foretune.analysis.solvers.estimator import class_probabilities
from foretune.analysis.spectrum import Spectrum
from foretune.analysis.transferability import (
    kernel_target_alignment,
    leep,
    log_evidence,
    negative_conditional_entropy,
)
from foretune.finetune.copies import head_names
from foretune.finetune.training import Training
from foretune.forecast.adam import PredictedRun, best_predicted, predicted_runs, reach
from foretune.forecast.candidates import ALPHA, trained_parameters, weights_of
from foretune.forecast.inputs import Inputs
from foretune.forecast.risk import RELATIVE_SIGMA, relative_risk
from foretune.forecast.search import search_for
from foretune.forecast.simulation import function_space, lowest_loss, train_spectrum, train_targets
from foretune.kernels.block_kernel import BlockKernel
from foretune.kernels.lora import LoRA
from foretune.kernels.sgd import SGD
from foretune.shapes import Float64
from foretune.study.cell import Cell
from foretune.study.validation.candidates import Placement

PARTS = ("validation",)
"""Examples beside the training ones that scores may see; test examples have no say."""


@dataclass(frozen=True)
class Evidence:
    """What a score may look at, before anything is fine-tuned.

    Attributes:
        placement: what would be trained.
        parts: joint kernel of each trained block, train x (train, then validation), those of the head last.
        tangent: joint kernel of the weights that adapters stand on, tuned in full, and of the head; of full tuning, the
            kernel itself.
        entries: numbers of each block that have a gradient at the start; of an adapter, those of B.
        trained: numbers that would be trained.
        everything: lambda_max of the kernel of all placements together.
        inputs: labels, pretrained outputs and features of training and validation examples.
        grid: settings of the runs.
        reach: the largest rate of Adam that a forecast would name, for the longest run of the grid.
    """

    placement: Placement
    parts: tuple[Float64[np.ndarray, "n c e c"], ...]
    tangent: Float64[np.ndarray, "n c e c"]
    entries: tuple[int, ...]
    trained: int
    everything: float
    inputs: Inputs
    grid: tuple[Training, ...]
    reach: float

    @cached_property
    def kernel(self) -> Float64[np.ndarray, "n c e c"]:
        """The joint kernel of the placement."""
        return np.sum(self.parts, axis=0)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of the training kernel."""
        return train_spectrum(self.kernel)

    @cached_property
    def space(self) -> FunctionSpace:
        """Its linear regime."""
        return function_space(self.kernel, self.inputs)

    @cached_property
    def descent(self) -> BestRun:
        """Full-batch gradient descent at rates of the placement's own."""
        search = search_for(self.kernel.shape[0] * self.kernel.shape[1])
        return best_run(self.space, GradientDescent(1.0), search.steps, search.every)

    @cached_property
    def adam(self) -> tuple[PredictedRun, ...]:
        """The runs of the grid with Adam."""
        return predicted_runs(self.parts, self.entries, self.inputs, self.grid)

    @cached_property
    def ridge(self) -> GridPoint:
        """Kernel ridge regression with validation's choice of hyperparameters."""
        inputs = self.inputs
        data = joint_data(self.kernel, inputs.f0, inputs.y, inputs.n_validation, inputs.metric)
        return solved(named_solver("ridge"), data).chosen

    @property
    def derivative(self) -> Float64[np.ndarray, "n c"]:
        """Chi = dl/df of the training examples."""
        n = self.inputs.n_train
        return chi(self.inputs.f0[:n], self.inputs.y[:n], CrossEntropy())

    @property
    def train_kernel(self) -> Float64[np.ndarray, "n c n c"]:
        """The training part."""
        return self.kernel[:, :, : self.inputs.n_train]


def gradient_norm(seen: Evidence) -> float:
    """||dL/dtheta_S|| = (chi' K chi)^1/2 / n of the training loss over the placement's parameters."""
    derivative, n = seen.derivative.reshape(-1), seen.inputs.n_train
    return float(np.sqrt(max(derivative @ seen.space.train_matrix @ derivative, 0.0))) / n


def target_alignment(seen: Evidence) -> float:
    """Alignment with the labels."""
    return kernel_target_alignment(
        seen.train_kernel, targets(seen.inputs.y, seen.inputs.f0.shape[1])[: seen.inputs.n_train]
    )


def residual_alignment(seen: Evidence) -> float:
    """Alignment with what the pretrained outputs leave of the labels."""
    return kernel_target_alignment(seen.train_kernel, -seen.derivative)


def model_log_evidence(seen: Evidence) -> float:
    """LogME of the features of the training examples."""
    n = seen.inputs.n_train
    return log_evidence(seen.inputs.features[:n].astype(np.float64), seen.inputs.y[:n])


def model_leep(seen: Evidence) -> float:
    """LEEP of the outputs before training, on validation examples: their head has seen the others."""
    n = seen.inputs.n_train
    return leep(class_probabilities(seen.inputs.f0[n:]), seen.inputs.y[n:])


def model_nce(seen: Evidence) -> float:
    """NCE of the classes predicted before training, on validation examples."""
    n = seen.inputs.n_train
    return negative_conditional_entropy(predicted_classes(seen.inputs.f0[n:]), seen.inputs.y[n:])


SCORES: Mapping[str, Callable[[Evidence], float]] = {
    "label regression, tangent kernel": lambda seen: -label_regression(seen.tangent, seen.inputs.y).error,
    "label regression, own kernel": lambda seen: -label_regression(seen.kernel, seen.inputs.y).error,
    "simulated validation loss": lambda seen: -lowest_loss(seen.descent.curves).loss,
    "simulated validation score": lambda seen: seen.descent.validation_score,
    "simulated Adam, validation loss": lambda seen: -best_predicted(seen.adam).lowest,
    "kernel regression, validation score": lambda seen: seen.ridge.validation,
    "kernel regression, validation loss": lambda seen: -seen.ridge.validation_loss,
    "exact risk": lambda seen: -relative_risk(seen.spectrum, train_targets(seen.inputs)).exact,
    "kappa": lambda seen: -seen.spectrum.condition_number(RELATIVE_SIGMA * seen.everything),
    "lambda_max (ratio)": lambda seen: seen.spectrum.largest / seen.everything,
    "trace": lambda seen: seen.spectrum.trace,
    "kernel-target alignment": target_alignment,
    "kernel-residual alignment": residual_alignment,
    "gradient norm": gradient_norm,
    "LogME": model_log_evidence,
    "LEEP": model_leep,
    "NCE": model_nce,
    "parameter count": lambda seen: float(seen.trained),
    "random choice": lambda seen: 0.0,
}
"""Name -> what it says of a placement; every candidate has the same chance where all have the same score."""


LOSSES = ("simulated validation loss", "simulated Adam, validation loss", "kernel regression, validation loss")
"""Scores that are a predicted validation loss in nats, with the sign turned: they say how low it gets, not only where."""

AFTER_WARM_UP = ("label regression, tangent kernel", *LOSSES)
"""Scores that are taken again on the kernel after a warm-up."""


def warmed_name(score: str, steps: int) -> str:
    """The name of a score after a warm-up of some steps, or its own where there are none."""
    return f"{score}, warm-up {steps}" if steps else score


def determinants(rows: int) -> dict[str, object]:
    """The constants that the scores rest on, as text; what is kept of a score is kept for these.

    Args:
        rows: of the training kernel, examples times outputs.
    """
    ridge = named_solver("ridge")
    return {
        "search": repr(search_for(rows)),
        "rates": repr(GRID),
        "strengths": repr(STRENGTHS),
        "sigma": RELATIVE_SIGMA,
        "ridge": f"{ridge!r} {ridge.default_grid}",
    }


def evidence(cell: Cell, placements: Sequence[Placement], grid: Sequence[Training]) -> list[Evidence]:
    """The evidence on placements of one rank, or of full tuning; kernels are read or computed.

    Args:
        cell: model and data.
        placements: of one model.
        grid: settings of the runs.
    """
    outputs, rank, heads = cell.outputs, placements[0].rank, head_names(cell.outputs)
    formula = SGD() if rank is None else LoRA(rank, ALPHA)
    kernel = cell.kernels([formula], PARTS)[formula.label]
    head = cell.kernels([SGD()], PARTS, heads)[SGD().label] if heads else None
    count = cell.inputs.n_train + cell.inputs.n_validation
    seen = ("y", "f0", "features")
    inputs = replace(cell.inputs, **{name: getattr(cell.inputs, name)[:count] for name in seen})
    weights = weights_of(outputs)
    last, head_entries = _parts(head, heads), tuple(weights.moving(name, None) for name in heads)
    every = dict.fromkeys(name for placement in placements for name in placement.blocks)
    full = kernel if rank is None else cell.kernels([SGD()], PARTS, list(every))[SGD().label]
    everything = train_spectrum(np.sum((*_parts(kernel, list(every)), *last), axis=0)).largest
    steps = max(training.steps_for(inputs.n_train) for training in grid)
    found = []
    for placement in placements:
        blocks = placement.blocks
        found.append(
            Evidence(
                placement=placement,
                parts=(*_parts(kernel, blocks), *last),
                tangent=np.sum((*_parts(full, blocks), *last), axis=0),
                entries=tuple(weights.moving(name, rank) for name in blocks) + head_entries,
                trained=trained_parameters(blocks, rank, weights) + sum(head_entries),
                everything=everything,
                inputs=inputs,
                grid=tuple(grid),
                reach=reach(blocks, rank, weights, steps),
            )
        )
    return found


def _parts(kernel: BlockKernel | None, names: Sequence[str]) -> tuple[Float64[np.ndarray, "n c e c"], ...]:
    """The kernels of some blocks."""
    if kernel is None:
        return ()
    place = {name: number for number, name in enumerate(kernel.names)}
    return tuple(kernel.array[place[name]] for name in names)
