r"""Rows whose texts are the same or nearly so, with different labels.

    similarity = |A and B| / |A or B|        Jaccard 1912; A, B the words of two texts, without case and punctuation

The same words in the same order are a duplicate, a similarity from `NEAR` on is a near-duplicate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from foretune.labelling.rows import Row

NEAR = 0.8
_FEW = 4
"""Words below which texts of similar words say different things."""
_AT_ONCE = 256
"""Rows that are compared with all others at a time."""


@dataclass(frozen=True)
class Twins:
    """Two rows with nearly one text and two labels.

    Attributes:
        first: the row that comes first.
        second: the row that comes later.
        same: whether the words are the same, in the same order.
        similarity: shared words over all words, 0 to 1.
    """

    first: Row
    second: Row
    same: bool
    similarity: float


def contradicting_twins(rows: Sequence[Row]) -> tuple[Twins, ...]:
    """Pairs of rows with nearly the same text and different labels, the most similar first.

    Args:
        rows: labelled ones.
    """
    texts = [_words(row) for row in rows]
    known: dict[str, int] = {}
    places = [[known.setdefault(word, len(known)) for word in sorted(set(text))] for text in texts]
    counts = np.array([len(each) for each in places])
    ends = np.concatenate([[0], np.cumsum(counts)])
    flat = np.concatenate([np.array(each, dtype=int) for each in places]) if known else np.empty(0, dtype=int)
    words = scipy.sparse.csr_matrix((np.ones(len(flat)), flat, ends), shape=(len(rows), max(len(known), 1)))
    numbers: dict[str | None, int] = {}
    labels = np.array([numbers.setdefault(row.label, len(numbers)) for row in rows])
    found = []
    for start in range(0, len(rows), _AT_ONCE):
        shared = (words[start : start + _AT_ONCE] @ words.T).tocoo()
        first, second, both = shared.row + start, shared.col, shared.data
        similarity = both / (counts[first] + counts[second] - both)
        near = (first < second) & (labels[first] != labels[second]) & (similarity >= NEAR)
        for i, j, alike in zip(first[near], second[near], similarity[near], strict=True):
            same = texts[i] == texts[j]
            if same or min(counts[i], counts[j]) >= _FEW:
                found.append(Twins(rows[i], rows[j], same, float(alike)))
    return tuple(sorted(found, key=lambda pair: (-pair.same, -pair.similarity)))


def _words(row: Row) -> tuple[str, ...]:
    second = () if row.text2 is None else ("|", *_plain(row.text2))
    return (*_plain(row.text), *second)


def _plain(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))
