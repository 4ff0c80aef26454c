"""What was read and what became of it: rows, labels, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foretune.text.builtin import Data
from foretune.text.cells import LabelColumn
from foretune.text.split import Split


@dataclass(frozen=True)
class Account:
    """What was read and what became of it.

    Attributes:
        sources: what rows are for (`training`, `validation`, `testing`) -> the file that holds them.
        rows: `training`, `validation`, `testing` -> number of rows read.
        labels: label -> rows that have it, in all files.
        left_out: why rows were left out -> how many.
        used: `training`, `validation`, `testing` -> examples of the split.
        notes: how files were read and what was done to labels, where that is not plain.
    """

    sources: Mapping[str, str]
    rows: Mapping[str, int]
    labels: Mapping[str, int]
    left_out: Mapping[str, int]
    used: Mapping[str, int]
    notes: Sequence[str] = ()


def account_of(data: Data, labels: LabelColumn, unlisted: Sequence[str], empty: int, split: Split) -> Account:
    """The account of rows that were split.

    Args:
        data: the rows.
        labels: of all of them.
        unlisted: the label of each row that was left out because the labels that were asked for do not name it.
        empty: rows with an empty text.
        split: of the others.
    """
    marks = ", ".join(labels.unlabelled)
    others = ", ".join(map(repr, sorted(set(unlisted))[:5])) + (", ..." if len(set(unlisted)) > 5 else "")
    reasons = {
        f"without a label ({marks})": sum(labels.unlabelled.values()),
        f"with a label that --labels does not name ({others})": len(unlisted),
        "repeating an earlier text": split.duplicates,
        "with the text of another row but another label": split.conflicts,
        "for validation or testing whose text stands among the other rows": split.overlaps,
    }
    used = {"training": split.train, "validation": split.validation, "testing": split.test}
    blank = [f"{empty} row{'s have' if empty > 1 else ' has'} an empty text."] if empty else []
    where = "below the folder of the data" if any("/" in name for name in data.unused) else "in the same folder"
    unused = [f"Not read: {', '.join(data.unused)}, {where}."] if data.unused else []
    return Account(
        sources={name: rows.source for name, rows in data.parts.items()},
        rows={name: len(rows) for name, rows in data.parts.items()},
        labels=dict(sorted(Counter(name for name in labels.names if name is not None).items())),
        left_out={reason: count for reason, count in reasons.items() if count},
        used={name: len(examples) for name, examples in used.items()},
        notes=(
            *dict.fromkeys(note for rows in data.parts.values() for note in rows.notes),
            *labels.notes,
            *blank,
            *unused,
        ),
    )
