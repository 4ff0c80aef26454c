"""Which candidates are really run: the forecast's own, of one method, by globs on their labels."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from foretune.candidates.candidate import Candidate
from foretune.errors import UsageError, nearest

FEWEST = 4
"""Candidates that a ranking needs."""


def common_labels(found: Sequence[Sequence[Candidate]]) -> list[str]:
    """The labels that every cell has, in the order of the first: the greedy search can end early on some samples."""
    return [item.label for item in found[0] if all(any(item.label == other.label for other in of) for of in found)]


def chosen_labels(labels: Sequence[str], globs: Sequence[str] | None) -> list[str]:
    """The labels that match one of some globs, all without any.

    Raises:
        UsageError: a glob matches none, or fewer than four are left.
    """
    for glob in globs or ():
        if not fnmatch.filter(labels, glob):
            raise UsageError(f"No candidate matches {glob!r}; there are {', '.join(labels)}.{nearest(glob, labels)}")
    wanted = {label for glob in globs or ("*",) for label in fnmatch.filter(labels, glob)}
    if len(wanted) < FEWEST:
        raise UsageError(
            f"{len(wanted)} candidates ({', '.join(sorted(wanted))}) are too few for a ranking; expected at least {FEWEST} "
            f"of {', '.join(labels)}."
        )
    return [label for label in labels if label in wanted]
