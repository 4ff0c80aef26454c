"""The two parts of a classifier's kernel, P and F, for full fine-tuning and for LoRA (Tomihari and Sato 2024).

    P    through the classifier's own parameters (pretrain-effective)
    F    through the features (FT-effective); O(||V||^2), so that a larger classifier makes it larger

Only singular values are kept; the Frobenius norm of a part is the norm of its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from foretune.analysis.singular_values import SingularValues
from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import KernelWork
from foretune.finetune.methods import LoRATuning
from foretune.kernels.compute import kernels_of
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job, separate_job
from foretune.kernels.sgd import SGD
from foretune.model.outputs import Outputs
from foretune.papers.lpft.measures import probed_outputs
from foretune.regime.head import adapter_split, kernel_split

EXAMPLES = 64
PARTS = {"P": "pretrain_effective", "F": "ft_effective", "P + F": "total"}
"""As the tables name them."""
_FORMULAS: tuple[Formula, ...] = (SGD(), LoRATuning().formula)
_PRETRAINED, _PROBED = "lpft-kernels-pretrained", "lpft-kernels-probed"

Spectra = Mapping[tuple[str, str], SingularValues]
"""(FT or LoRA, part) -> singular values."""


def pretrained_spectra(cell: Experiment) -> Spectra:
    """The kernels before any training, on at most 64 training examples."""
    return _kept(cell, _PRETRAINED, {}, lambda: cell.outputs)


def probed_spectra(cell: Experiment, budget: Budget) -> Spectra:
    """The kernels after linear probing with its own grid.

    Raises:
        NonFiniteError: linear probing failed at every point of its grid.
    """
    return _kept(cell, _PROBED, *probed_outputs(cell, budget))


def missing_spectra(cell: Experiment, budget: Budget | None = None) -> list[KernelWork]:
    """The kernels of `pretrained_spectra`, and with a budget of `probed_spectra`, whose values are not kept."""
    places = [(_PRETRAINED, {}), *([] if budget is None else [(_PROBED, probed_outputs(cell, budget)[0])])]
    missing = [name for name, key in places if cell.kept(name, _key(key)) is None]
    return [KernelWork(_job(cell, cell.outputs), len(missing) * [_FORMULAS])] if missing else []


def mean_spectra(spectra: list[Spectra]) -> Spectra:
    """The mean of the largest, the second, ... values over seeds."""
    return {key: SingularValues(np.mean([one[key].values for one in spectra], axis=0)) for key in spectra[0]}


def _kept(cell: Experiment, name: str, key: Mapping[str, object], outputs: Callable[[], Outputs]) -> Spectra:
    found = cell.value(name, _key(key), lambda: _spectra(cell, outputs()))
    return {
        (kernel, part): SingularValues(np.array(values))
        for kernel, parts in found.items()
        for part, values in parts.items()
    }


def _key(key: Mapping[str, object]) -> dict[str, object]:
    return {**key, "examples": EXAMPLES, "formula": repr(LoRATuning().formula)}


def _job(cell: Experiment, outputs: Outputs) -> Job:
    return separate_job(outputs, cell.split.train[:EXAMPLES], None, None)


def _spectra(cell: Experiment, outputs: Outputs) -> dict[str, dict[str, list[float]]]:
    """The kernels of both kinds in one pass over the examples."""
    job = _job(cell, outputs)
    whole, adapters = kernels_of(job, _FORMULAS, cell.work.memory, progress=cell.work.progress).values()
    splits = {"FT": kernel_split(whole), "LoRA": adapter_split(whole, adapters)}
    return {
        kernel: {part: split.spectra[field].values.tolist() for part, field in PARTS.items()}
        for kernel, split in splits.items()
    }
