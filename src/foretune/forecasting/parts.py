"""The whole model, its layers and its module types, each as if it alone were trained in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.feature_kernel import Kernel
from foretune.analysis.groups import layers, module_types
from foretune.analysis.scores import Score, scored
from foretune.analysis.solvers import KernelRidge, Solution, joint_data, solve_on_grid
from foretune.analysis.spectrum import Spectrum
from foretune.candidates.joint import joint_kernel, train_spectrum, train_targets
from foretune.candidates.risk import RELATIVE_SIGMA, relative_risk
from foretune.experiment.inputs import Inputs
from foretune.kernels.features import Blocked
from foretune.shapes import Float64


@dataclass(frozen=True)
class Part:
    """A set of parameter blocks and what its kernel says.

    Attributes:
        name: layer, module type, or `whole model`.
        kind: `layer`, `module type` or `whole model`.
        blocks, parameters: number of blocks and of their parameters.
        largest, smallest: eigenvalues of its training kernel.
        condition_number: kappa(K_S + sigma I) with the whole model's sigma.
        effective_rank: trace over the largest eigenvalue.
        ridge_risk: sigma y'(K_S + sigma I)^-1 y / ||y||^2 with its own sigma; 0 is a perfect fit, 1 is none.
        regression: kernel regression with this part alone.
        score: test score of that regression, with an interval.
    """

    name: str
    kind: str
    blocks: int
    parameters: int
    largest: float
    smallest: float
    condition_number: float
    effective_rank: float
    ridge_risk: float
    regression: Solution
    score: Score


def whole_and_parts(inputs: Inputs, kernel: Blocked) -> tuple[Part, tuple[Part, ...], float, Float64[np.ndarray, " k"]]:
    """The whole model, its layers and module types, the sigma of the condition numbers, and the whole model's spectrum."""
    alive = kernel.moving
    total = joint_kernel(kernel, kernel.names)
    whole_spectrum = train_spectrum(total)
    sigma = RELATIVE_SIGMA * whole_spectrum.largest
    whole = _part("whole model", "whole model", list(kernel.names), total, whole_spectrum, sigma, inputs)
    parts = []
    groups = [("layer", layers(alive)), ("module type", module_types(alive))]
    for kind, members in groups:
        for name, blocks in members.items():
            of_part = joint_kernel(kernel, blocks)
            parts.append(_part(name, kind, blocks, of_part, train_spectrum(of_part), sigma, inputs))
    return whole, tuple(parts), sigma, whole_spectrum.values


def _part(
    name: str, kind: str, blocks: list[str], joint: Kernel, eigen: Spectrum, sigma: float, inputs: Inputs
) -> Part:
    data = joint_data(joint, inputs.f0, inputs.y, inputs.n_validation, inputs.metric, eigen=eigen)
    regression = solve_on_grid(KernelRidge(), data)
    return Part(
        name=name,
        kind=kind,
        blocks=len(blocks),
        parameters=sum(inputs.sizes[block] for block in blocks),
        largest=eigen.largest,
        smallest=eigen.smallest,
        condition_number=eigen.condition_number(sigma),
        effective_rank=eigen.effective_rank,
        ridge_risk=relative_risk(eigen, train_targets(inputs)).exact,
        regression=regression,
        score=scored(inputs.y[inputs.n_train + inputs.n_validation :], regression.predictions, inputs.metric),
    )


def ranked(parts: Sequence[Part]) -> list[Part]:
    """Parts, best first: by validation score, then by ridge risk; test examples have no say."""
    return sorted(parts, key=lambda part: (-part.regression.chosen.validation, part.ridge_risk))
