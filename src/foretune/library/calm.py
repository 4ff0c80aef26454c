"""Libraries that announce things are quiet while a function works, and a model in memory is given back as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def calm(model: Any) -> Iterator[None]:
    """No bars and no chatter of other libraries; afterwards a module is in training mode where it was.

    Args:
        model: what the user passed as the model.
    """
    import transformers
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    modes = {each: each.training for each in model.modules()} if isinstance(model, nn.Module) else {}
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(transformers|torch|huggingface_hub|zarr|sklearn)\b.*")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
        for each, training in modes.items():
            each.training = training
