"""What `reproduce` measured, for programs: the page holds the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ReproductionData:
    """What the numbers of a page depend on.

    Attributes:
        versions: versions of Python and of the packages that numbers depend on.
    """

    versions: Mapping[str, str]
