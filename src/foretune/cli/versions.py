"""Versions of Python and of the packages that numbers depend on."""

from __future__ import annotations

import platform

from foretune.store.version import version_of

PACKAGES = ("foretune", "torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "zarr")


def versions() -> dict[str, str]:
    """Name -> version."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}}
