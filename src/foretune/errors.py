"""Errors that a user can act on.

Every message says what came, what was expected and what to type next. The command line prints the message alone and
exits with `exit_code`: 2 for a mistake in what was typed, 1 for everything that went wrong later.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ForetuneError(Exception):
    """Base of every error that foretune raises on purpose."""

    exit_code = 1


class UsageError(ForetuneError):
    """An argument, option or file name that cannot be meant as it stands."""

    exit_code = 2


class DataError(ForetuneError):
    """Text or labels that cannot be used as they are."""

    exit_code = 2


class ModelError(ForetuneError):
    """A model that cannot be loaded, or that does not fit the request."""


class NonFiniteError(ForetuneError):
    """An infinite or undefined number in a forward or backward pass."""


class KernelFolderError(ForetuneError):
    """A kernel folder that cannot be read, or that belongs to another computation."""


class KernelLawError(ForetuneError):
    """A kernel that is not that of its parameter's gradient; nothing was computed."""


class StorageError(ForetuneError):
    """A file that could not be written or fetched; nothing half written is left behind."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known word closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
