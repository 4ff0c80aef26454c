"""Versions of Python and of the packages that numbers depend on."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("foretune", "torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "zarr")


def versions() -> dict[str, str]:
    """Name -> version."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}
