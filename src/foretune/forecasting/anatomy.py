"""What the kernel of full tuning is made of: its spectrum, and what each layer's modules bring to it.

Of the blocks b of one module in one layer, with chi = dl/df of the training examples before training,

    gradient    ||g_b||^2 / ||g||^2 = chi' K_b chi / chi' K chi
                share of the loss that the first step of gradient descent takes away
    alignment   of K_b with the labels (`analysis.transferability.kernel_target_alignment`), 0 to 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foretune.analysis.feature_kernel import gradient_squares
from foretune.analysis.groups import layers, module_types
from foretune.analysis.losses import targets
from foretune.analysis.transferability import kernel_target_alignment
from foretune.candidates.candidate import Candidate
from foretune.candidates.evidence import Pool
from foretune.candidates.joint import joint_kernel
from foretune.shapes import Float64


@dataclass(frozen=True)
class ModuleShare:
    """A module of a layer.

    Attributes:
        layer: path of the layer; empty for what is outside the layers.
        module: path inside the layer, or of the module.
        gradient: share of the squared gradient before training that is the module's, 0 to 1.
        alignment: alignment of the module's kernel with the labels, 0 to 1.
    """

    layer: str
    module: str
    gradient: float
    alignment: float


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What the kernel of full tuning is made of.

    Attributes:
        spectrum: eigenvalues of the training kernel of the whole model, the largest first.
        chosen_spectrum: eigenvalues of the training kernel of what is recommended, or of what comes first.
        places: each module of each layer.
    """

    spectrum: Float64[np.ndarray, " k"]
    chosen_spectrum: Float64[np.ndarray, " k"]
    places: tuple[ModuleShare, ...]


def anatomy(pool: Pool, chosen: Candidate, spectrum: Float64[np.ndarray, " k"]) -> Anatomy:
    """What the kernel of full tuning is made of.

    Args:
        pool: the kernels.
        chosen: what is recommended, or what comes first.
        spectrum: eigenvalues of the whole model's training kernel, ascending.
    """
    return Anatomy(
        spectrum=spectrum[::-1].copy(),
        chosen_spectrum=pool.evidence(chosen).spectrum.values[::-1].copy(),
        places=_places(pool, pool.evidence(chosen).derivative),
    )


def _places(pool: Pool, chi: Float64[np.ndarray, "n c"]) -> tuple[ModuleShare, ...]:
    kernel, inputs = pool.kernels["sgd"], pool.inputs
    y = targets(inputs.y[: inputs.n_train], inputs.f0.shape[1])
    total = max(gradient_squares(joint_kernel(kernel, kernel.names), chi)[0], np.finfo(float).tiny)
    found = []
    for layer, module, blocks in _modules(kernel.names):
        own = joint_kernel(kernel, blocks)[:, :, : inputs.n_train]  # (n, c, n, c)
        aligned = kernel_target_alignment(own, y)
        found.append(ModuleShare(layer, module, gradient_squares(own, chi)[0] / total, aligned))
    return tuple(found)


def _modules(names: Sequence[str]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Layer, module and parameters of each module of each layer."""
    by_layer = layers(names)
    inside = {name for members in by_layer.values() for name in members}
    groups = {"": [name for name in names if name not in inside], **by_layer}
    return [
        (layer, module, tuple(blocks))
        for layer, members in groups.items()
        for module, blocks in module_types(members).items()
    ]
