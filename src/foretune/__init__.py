"""foretune forecasts fine-tuning of pretrained language models from their empirical neural tangent kernel."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from foretune.store.version import VERSION

if TYPE_CHECKING:
    from foretune.errors import ForetuneError as ForetuneError
    from foretune.handover.callback import ForecastCallback as ForecastCallback
    from foretune.kernels.block_kernel import BlockKernel as BlockKernel
    from foretune.kernels.compute import block_kernels as block_kernels
    from foretune.kernels.compute import joint_kernels as joint_kernels
    from foretune.kernels.compute import kernels_of as kernels_of
    from foretune.kernels.compute import projected_features as projected_features
    from foretune.kernels.feature_folder import read_features as read_features
    from foretune.kernels.features import TangentFeatures as TangentFeatures
    from foretune.kernels.job import joint_job as joint_job
    from foretune.kernels.job import separate_job as separate_job
    from foretune.kernels.lora import LoRA as LoRA
    from foretune.kernels.projection import IntrinsicDimension as IntrinsicDimension
    from foretune.kernels.projection import Kronecker as Kronecker
    from foretune.kernels.projection import Rademacher as Rademacher
    from foretune.kernels.sgd import SGD as SGD
    from foretune.kernels.signs import AsymmetricSignGD as AsymmetricSignGD
    from foretune.kernels.signs import BlockEps as BlockEps
    from foretune.kernels.signs import SignGD as SignGD
    from foretune.library.behaviour import RunBehaviour as RunBehaviour
    from foretune.library.behaviour import behaviour as behaviour
    from foretune.library.card import card as card
    from foretune.library.forecast import Forecast as Forecast
    from foretune.library.forecast import forecast as forecast
    from foretune.library.labels import LearningCurve as LearningCurve
    from foretune.library.labels import RowInfluences as RowInfluences
    from foretune.library.labels import RowsToLabel as RowsToLabel
    from foretune.library.labels import SuspiciousLabels as SuspiciousLabels
    from foretune.library.labels import influences as influences
    from foretune.library.labels import label_budget as label_budget
    from foretune.library.labels import next_rows as next_rows
    from foretune.library.labels import suspicious_labels as suspicious_labels
    from foretune.library.reproduce import Reproduction as Reproduction
    from foretune.library.reproduce import reproduce as reproduce
    from foretune.library.tune import TunedRun as TunedRun
    from foretune.library.tune import tune as tune
    from foretune.library.validate import ForecastValidation as ForecastValidation
    from foretune.library.validate import validate as validate
    from foretune.model.answer import AnswerLogits as AnswerLogits
    from foretune.model.head import HeadLogits as HeadLogits
    from foretune.model.load import LanguageModel as LanguageModel
    from foretune.model.load import load_model as load_model
    from foretune.model.parameters import ParameterFilter as ParameterFilter
    from foretune.regime.operator import kernel_operator as kernel_operator
    from foretune.regime.operator import kernel_spectrum as kernel_spectrum
    from foretune.text.builtin import load_rows as load_rows
    from foretune.text.builtin import load_task as load_task
    from foretune.text.example import Example as Example
    from foretune.text.task import Split as Split
    from foretune.text.task import Task as Task

__version__ = VERSION

_WHERE = {
    "card": "foretune.library.card",
    "Forecast": "foretune.library.forecast",
    "forecast": "foretune.library.forecast",
    "TunedRun": "foretune.library.tune",
    "tune": "foretune.library.tune",
    "RunBehaviour": "foretune.library.behaviour",
    "behaviour": "foretune.library.behaviour",
    "LearningCurve": "foretune.library.labels",
    "SuspiciousLabels": "foretune.library.labels",
    "RowInfluences": "foretune.library.labels",
    "RowsToLabel": "foretune.library.labels",
    "influences": "foretune.library.labels",
    "next_rows": "foretune.library.labels",
    "label_budget": "foretune.library.labels",
    "suspicious_labels": "foretune.library.labels",
    "ForecastValidation": "foretune.library.validate",
    "validate": "foretune.library.validate",
    "Reproduction": "foretune.library.reproduce",
    "reproduce": "foretune.library.reproduce",
    "AnswerLogits": "foretune.model.answer",
    "BlockKernel": "foretune.kernels.block_kernel",
    "Example": "foretune.text.example",
    "ForecastCallback": "foretune.handover.callback",
    "ForetuneError": "foretune.errors",
    "HeadLogits": "foretune.model.head",
    "IntrinsicDimension": "foretune.kernels.projection",
    "Kronecker": "foretune.kernels.projection",
    "LanguageModel": "foretune.model.load",
    "AsymmetricSignGD": "foretune.kernels.signs",
    "BlockEps": "foretune.kernels.signs",
    "LoRA": "foretune.kernels.lora",
    "ParameterFilter": "foretune.model.parameters",
    "Rademacher": "foretune.kernels.projection",
    "SGD": "foretune.kernels.sgd",
    "SignGD": "foretune.kernels.signs",
    "Split": "foretune.text.task",
    "TangentFeatures": "foretune.kernels.features",
    "Task": "foretune.text.task",
    "block_kernels": "foretune.kernels.compute",
    "joint_job": "foretune.kernels.job",
    "joint_kernels": "foretune.kernels.compute",
    "kernel_operator": "foretune.regime.operator",
    "kernel_spectrum": "foretune.regime.operator",
    "kernels_of": "foretune.kernels.compute",
    "projected_features": "foretune.kernels.compute",
    "read_features": "foretune.kernels.feature_folder",
    "separate_job": "foretune.kernels.job",
    "load_model": "foretune.model.load",
    "load_rows": "foretune.text.builtin",
    "load_task": "foretune.text.builtin",
}
__all__ = [
    "__version__",
    *_WHERE,
]


def __getattr__(name: str) -> object:
    """Public names are imported when first used, so that `import foretune` stays fast."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'foretune' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return [*_WHERE, "__version__"]
