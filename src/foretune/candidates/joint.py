"""Views of a joint kernel, train x (train, validation, test): its linear regime and its training part."""

from __future__ import annotations

import numpy as np

from foretune.analysis.dynamics import FunctionSpace, LogLoss
from foretune.analysis.losses import targets
from foretune.analysis.spectrum import Spectrum, spectrum
from foretune.experiment.inputs import Inputs
from foretune.shapes import Float64


def function_space(joint: Float64[np.ndarray, "n c e c"], inputs: Inputs) -> FunctionSpace:
    """The linear regime of a joint kernel: training, validation, then test examples."""
    return FunctionSpace(
        joint.transpose(2, 3, 0, 1), inputs.f0, inputs.y, LogLoss(), inputs.n_validation, inputs.metric
    )


def train_matrix(joint: Float64[np.ndarray, "n c e c"]) -> Float64[np.ndarray, "k k"]:
    """The training part of a joint kernel as a matrix."""
    n, c = joint.shape[:2]
    return joint[:, :, :n].reshape(n * c, n * c)


def train_spectrum(joint: Float64[np.ndarray, "n c e c"]) -> Spectrum:
    """The spectrum of the training part of a joint kernel."""
    return spectrum(train_matrix(joint))


def train_targets(inputs: Inputs) -> Float64[np.ndarray, " k"]:
    """Targets of the training examples, example i's output a at `i * c + a`."""
    return targets(inputs.y[: inputs.n_train], inputs.f0.shape[1]).reshape(-1)
