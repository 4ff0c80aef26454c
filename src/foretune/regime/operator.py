r"""The tangent kernel as an operator: products `K v` where `N C x N C` numbers are too many to hold.

    K v = J (J' v),        J = df / dtheta at theta_0, rows `i * c + a`

Two sweeps over the batches: one vector-Jacobian product each, summed up to `w = J' v`, then one Jacobian-vector product
each (forward mode). No gradient of an example is ever written out: beside the model and the activations of a batch, a
product takes two sets of parameters, and the time of about five forward passes over the examples. It is what Lanczos
iterations ask for (`analysis.lanczos`); exact like the block kernel, of the same parameters, up to the model's precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from foretune.analysis.lanczos import IterativeSpectrum, iterative_spectrum
from foretune.errors import NonFiniteError, UsageError
from foretune.kernels.block_kernel import Pattern, matching
from foretune.model.batches import Rows, batches
from foretune.model.encoding import Batch
from foretune.model.outputs import Outputs
from foretune.shapes import Float, Float64


class KernelOperator(LinearOperator):
    """The SGD kernel of some examples by products with their Jacobian.

    Args:
        outputs: the model as a function, with c outputs.
        parameters: those that take part, at theta_0.
        parts: the places of the examples of each batch, and the batch.
    """

    def __init__(
        self, outputs: Outputs, parameters: dict[str, Tensor], parts: Sequence[tuple[list[int], Batch]]
    ) -> None:
        size = outputs.n_outputs * sum(len(places) for places, _ in parts)
        super().__init__(np.dtype(np.float64), (size, size))
        self.outputs, self.parameters, self.parts = outputs, parameters, parts

    def _matvec(self, vector: np.ndarray) -> Float64[np.ndarray, " k"]:
        """K v, one vector after another where there are several."""
        v = np.asarray(vector, dtype=np.float64).reshape(-1, self.outputs.n_outputs)  # (n, c)
        found = np.empty_like(v)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no forward-mode rule
            w = self._pulled_back(v)
            for places, batch in self.parts:
                found[places] = self._pushed_forward(w, batch).double().cpu().numpy()
        if not np.isfinite(found).all():
            raise NonFiniteError("A product with the kernel is infinite or undefined. Try dtype float32 or float64.")
        return found.reshape(-1)

    def _adjoint(self) -> LinearOperator:
        return self  # K is symmetric

    def _pulled_back(self, v: Float64[np.ndarray, "n c"]) -> dict[str, Tensor]:
        """J' v by parameter, summed in float32 or better."""
        total = {
            name: torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
            for name, tensor in self.parameters.items()
        }
        for places, batch in self.parts:
            # torch.func differentiates whatever the gradient mode outside
            pair: Any = torch.func.vjp(lambda at, batch=batch: self.outputs.logits(at, batch), self.parameters)
            values, pull_back = pair
            (part,) = pull_back(torch.from_numpy(v[places]).to(values))
            for name, tensor in part.items():
                total[name] += tensor
        return {name: tensor.to(self.parameters[name].dtype) for name, tensor in total.items()}

    def _pushed_forward(self, w: dict[str, Tensor], batch: Batch) -> Float[Tensor, "n c"]:
        """J w of one batch."""
        pair: Any = torch.func.jvp(lambda at: self.outputs.logits(at, batch), (self.parameters,), (w,))
        return pair[1]


def kernel_operator(outputs: Outputs, rows: Rows, blocks: Pattern | None = None, batch: int = 8) -> KernelOperator:
    """The SGD kernel of examples with themselves, as a `scipy` operator of shape (n c, n c).

    `block_kernels(outputs, rows, blocks=blocks).matrix() @ v` without the matrix:

        operator = kernel_operator(outputs, split.train)
        operator @ v
        iterative_spectrum(operator, tolerance=1e-4).largest.value

    Args:
        outputs: the model as a function of its parameters, with c outputs.
        rows: n examples; row `i * c + a` of the operator is output a of example i.
        blocks: globs or a predicate on parameter names; all trainable parameters when left out.
        batch: examples per pass.

    Raises:
        UsageError: no examples, every parameter frozen, or no matching block.
    """
    parameters = {name: tensor.detach() for name, tensor in outputs.parameters().items()}
    if not parameters:
        raise UsageError("Every parameter of the model is frozen; unfreeze some (requires_grad_) to have a kernel.")
    if blocks is not None:
        names = list(parameters)
        parameters = {names[place]: parameters[names[place]] for place in matching(names, blocks)}
    return KernelOperator(outputs, parameters, list(batches(outputs, rows, batch)))


def kernel_spectrum(
    outputs: Outputs,
    rows: Rows,
    blocks: Pattern | None = None,
    batch: int = 8,
    smallest: bool = False,
    probes: int = 32,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> IterativeSpectrum:
    """The extreme eigenvalues, trace and effective rank of a kernel that is never held.

    Args:
        outputs, rows, blocks, batch: as in `kernel_operator`.
        smallest: whether lambda_min is wanted too; it takes as many products again, or more.
        probes: random vectors for the trace; a product each.
        tolerance: residual of an eigenvalue relative to lambda_max; 1e-4 is within reach of float32.
        seed: of the start vector and the probes.

    Raises:
        UsageError: as in `kernel_operator` and `iterative_spectrum`.
        NonFiniteError: infinite or undefined outputs or derivatives.
    """
    return iterative_spectrum(kernel_operator(outputs, rows, blocks, batch), smallest, probes, tolerance, seed)
