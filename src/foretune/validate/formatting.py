"""Numbers as they stand in tables and sentences."""

from __future__ import annotations

import numpy as np


def shown(value: float, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def shown_interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """A number with its interval, or a dash."""
    return "-" if np.isnan(value) else f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
