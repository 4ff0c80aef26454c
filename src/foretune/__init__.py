"""foretune forecasts fine-tuning of pretrained language models from their empirical neural tangent kernel."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foretune.errors import ForetuneError as ForetuneError
    from foretune.kernels.block_kernel import BlockKernel as BlockKernel
    from foretune.kernels.engine import block_kernels as block_kernels
    from foretune.kernels.engine import joint_kernels as joint_kernels
    from foretune.kernels.sgd import SGD as SGD
    from foretune.model.answer import AnswerLogits as AnswerLogits
    from foretune.model.head import HeadLogits as HeadLogits
    from foretune.model.load import LanguageModel as LanguageModel
    from foretune.model.load import load_model as load_model
    from foretune.text.builtin import load_rows as load_rows
    from foretune.text.builtin import load_task as load_task
    from foretune.text.example import Example as Example
    from foretune.text.task import Split as Split
    from foretune.text.task import Task as Task

__version__ = "0.1.0"

_WHERE = {
    "AnswerLogits": "foretune.model.answer",
    "BlockKernel": "foretune.kernels.block_kernel",
    "Example": "foretune.text.example",
    "ForetuneError": "foretune.errors",
    "HeadLogits": "foretune.model.head",
    "LanguageModel": "foretune.model.load",
    "SGD": "foretune.kernels.sgd",
    "Split": "foretune.text.task",
    "Task": "foretune.text.task",
    "block_kernels": "foretune.kernels.engine",
    "joint_kernels": "foretune.kernels.engine",
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
