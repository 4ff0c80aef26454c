r"""The fine-tuned network beside its linearization around the pretrained parameters.

Malladi et al. 2023, Definition 2.2 and Appendix B.2 (Definition D.3 formally):

    f_lin(x; theta_FT) = f(x; theta_0) + <df(x; theta_0), theta_FT - theta_0>

The inner product is one Jacobian-vector product a batch: forward mode, no gradient is ever written out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from foretune.analysis.kernel_behaviour import LinearizationTest
from foretune.analysis.scores import predicted_classes, score
from foretune.errors import NonFiniteError
from foretune.model.batches import Rows, batches
from foretune.model.encoding import Batch
from foretune.model.outputs import Outputs
from foretune.regime.change import ParameterChange, parameter_change
from foretune.shapes import Float, Float64, Int
from foretune.text.example import as_examples


@dataclass(frozen=True)
class Linearization:
    """Outputs of three models on the same examples, and the step between them.

    Attributes:
        pretrained: outputs before training, f(x; theta_0).
        linear: outputs of the linearized model, f_lin(x; theta_FT).
        tuned: outputs after training, f(x; theta_FT).
        change: theta_FT - theta_0.
    """

    pretrained: Float64[np.ndarray, "n c"]
    linear: Float64[np.ndarray, "n c"]
    tuned: Float64[np.ndarray, "n c"]
    change: ParameterChange

    @property
    def gap(self) -> Float64[np.ndarray, " n"]:
        """||f - f_lin|| of each example, over its outputs."""
        return np.linalg.norm(self.tuned - self.linear, axis=1)

    @property
    def relative_gap(self) -> float:
        """||f - f_lin|| / ||f - f_0|| over all examples: 0 in the linear regime; not a number where nothing changed."""
        moved = float(np.linalg.norm(self.tuned - self.pretrained))
        return float(np.linalg.norm(self.gap)) / moved if moved else float("nan")

    def test(self, y: Int[np.ndarray, " n"], metric: str = "accuracy") -> LinearizationTest:
        """The three models' scores (Appendix B.2, Figure 2).

        Args:
            y: class numbers.
            metric: `accuracy`, `f1` or `matthews`.
        """
        return LinearizationTest(
            *(score(y, predicted_classes(f), metric) for f in (self.pretrained, self.linear, self.tuned))
        )


def linearization(before: Outputs, after: Outputs, rows: Rows, batch: int = 8) -> Linearization:
    """The fine-tuned model beside its linearization (Malladi et al. 2023, Definition 2.2, Appendix B.2).

    Args:
        before: the model at theta_0, with c outputs.
        after: the same outputs of the fine-tuned model.
        rows: n examples.
        batch: examples per pass.

    Returns:
        Outputs of shape (n, c), float64.

    Raises:
        UsageError: models that do not match (see `parameter_change`), or no rows.
        NonFiniteError: infinite or undefined outputs.
    """
    change, rows = parameter_change(before, after), as_examples(rows)
    found = np.empty((3, len(rows), before.n_outputs))
    for places, part in batches(before, rows, batch):
        with torch.no_grad():
            tuned = after.forward({name: tensor.to(after.lm.device) for name, tensor in part.items()})
        for kind, values in enumerate((*first_order(before, change, part), tuned)):
            found[kind, places] = values.double().cpu().numpy()
    for name, values in zip(("pretrained", "linearized", "fine-tuned"), found, strict=True):
        if not np.isfinite(values).all():
            raise NonFiniteError(f"The {name} model's outputs are infinite or undefined. Try dtype float32 or float64.")
    return Linearization(found[0], found[1], found[2], change)


def first_order(
    outputs: Outputs, change: ParameterChange, batch: Batch
) -> tuple[Float[torch.Tensor, "n c"], Float[torch.Tensor, "n c"]]:
    """f(x; theta_0) and f_lin(x; theta_FT) of one batch."""
    # the fused attention kernels have no forward-mode rule, the one written in plain operations does
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        found = torch.func.jvp(lambda parameters: outputs.logits(parameters, batch), (change.start,), (change.step,))
    return found[0], found[0] + found[1]
