"""The versions that results carry: of foretune, as this source tree has it, and of the packages that numbers depend on."""

from __future__ import annotations

VERSION = "0.1.0"
"""Of foretune: also where only PYTHONPATH leads to it, and no distribution is installed."""


def version_of(package: str) -> str:
    """The version of foretune, or of an installed package.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    import importlib.metadata

    return VERSION if package == "foretune" else importlib.metadata.version(package)
