"""Who follows a run: nothing in it depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from foretune.progress import Progress


@dataclass(frozen=True)
class Followers:
    """What is told of a run as it goes on.

    Attributes:
        progress: called after every step.
        callbacks: callbacks of `transformers.Trainer`, before those of its trackers.
    """

    progress: Progress | None = None
    callbacks: tuple[Any, ...] = ()
