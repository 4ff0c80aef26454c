"""Trackers that a run reports to, as `transformers.Trainer` names them in `report_to`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from foretune.errors import UsageError

TRACKERS: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    **{
        name: (name,) for name in ("trackio", "wandb", "mlflow", "comet_ml", "clearml", "neptune", "swanlab", "dvclive")
    },
}
"""Tracker -> the packages of which one must be installed."""
NONE = "none"
"""What transformers calls no tracker."""
_FOLDER = "TENSORBOARD_LOGGING_DIR"


def refuse_missing_trackers(names: Sequence[str]) -> None:
    """See, before the work, that trackers are installed.

    Raises:
        UsageError: one is not.
    """
    for name in names:
        packages = TRACKERS.get(name, (name,))
        if not any(importlib.util.find_spec(package) is not None for package in packages):
            raise UsageError(
                f"The tracker {name} is not installed. Install it: python -m pip install {packages[0]}; or leave "
                "--report-to out."
            )


@contextmanager
def logs_in(folder: Path | None) -> Iterator[None]:
    """Tensorboard's files go into a folder, unless the user has named one by TENSORBOARD_LOGGING_DIR."""
    if folder is None or _FOLDER in os.environ:
        yield
        return
    os.environ[_FOLDER] = str(folder)
    try:
        yield
    finally:
        del os.environ[_FOLDER]
