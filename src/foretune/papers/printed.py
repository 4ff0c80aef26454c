"""Figures as a paper prints them, kept as data beside the recipes."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def printed_figures(paper: str) -> Any:
    """The figures of a paper, by table.

    Args:
        paper: name of the file in `papers/paper`, without its ending.
    """
    text = files("foretune.papers").joinpath("paper", f"{paper}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
