"""`labels` and `explain` as functions: wrong labels, how many more, which next, and what a prediction rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from foretune.cli.explain import made_explanation
from foretune.cli.labels import made_labels
from foretune.errors import UsageError, nearest
from foretune.library.calm import calm
from foretune.library.given import asked_groups, function_options, told
from foretune.library.result import Result, frame
from foretune.text.task import Task

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class SuspiciousLabels(Result):
    """Which labels look wrong, and how many are: what `ft.suspicious_labels` gives back.

    Attributes:
        page: the answer, its tables, figures and notes as data.
        folder: where it was written, or read from; None where it is in memory only.
    """

    kind: ClassVar[str] = "labels"

    @property
    def wrong(self) -> Mapping[str, Any]:
        """How many labels are wrong: `count`, `low` and `high` of a 95% interval, and whether one `can_tell`."""
        return self.record["wrong"]

    def to_frame(self) -> pandas.DataFrame:
        """All rows, the most suspicious first: source, row (from 0), text, label, likely label, probabilities (0 to 1)."""
        return frame(self.record["rows"])


@dataclass(frozen=True, repr=False)
class LearningCurve(SuspiciousLabels):
    """The accuracy by the number of labels: what `ft.label_budget` gives back.

    Attributes:
        page: the answer, its tables, figures and notes as data.
        folder: where it was written, or read from; None where it is in memory only.
    """

    def to_frame(self) -> pandas.DataFrame:
        """The points: labelled rows (a count), accuracy and its 95% interval (0 to 1), and whether it was measured."""
        return frame(self.record["budget"]["points"])


@dataclass(frozen=True, repr=False)
class RowsToLabel(SuspiciousLabels):
    """The unlabelled rows to label next: what `ft.next_rows` gives back.

    Attributes:
        page: the answer, its tables, figures and notes as data.
        folder: where it was written, or read from; None where it is in memory only.
    """

    def to_frame(self) -> pandas.DataFrame:
        """The rows in their order: source, row (from 0), text, and the share of doubt that a label takes away (0 to 1)."""
        return frame(self.record["next_rows"]["rows"])


@dataclass(frozen=True, repr=False)
class RowInfluences(Result):
    """What predictions rest on: what `ft.influences` gives back.

    Attributes:
        page: the answer, its tables, figures and notes as data.
        folder: None, since explanations are not kept.
    """

    kind: ClassVar[str] = "explain"

    def to_frame(self) -> pandas.DataFrame:
        """Each training row of each prediction: `asked` (its row, -1 for a text), row, label, text, removal and share."""
        return frame(
            [{"asked": each["asked"]["row"], **row} for each in self.record["explained"] for row in each["rows"]]
        )


@told("labels")
def suspicious_labels(
    model: Any,
    data: Any,
    *,
    tokenizer: Any = None,
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    revision: str | None = None,
    kind: Literal["causal", "masked", "encoder"] | None = None,
    trust_remote_code: bool = False,
    text: str | None = None,
    text2: str | None = None,
    label: str | None = None,
    labels: str | Sequence[str] | None = None,
    data_split: str | None = None,
    data_revision: str | None = None,
    max_labels: int | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    validation_data: Any = None,
    test_data: Any = None,
    output: Literal["auto", "prompt", "head"] = "auto",
    task: str | Path | Task | None = None,
    prompt: str | None = None,
    template: str | None = None,
    words: str | Mapping[str, str] | None = None,
    first_piece: bool = False,
    pooling: Literal["mean", "cls", "last"] | None = None,
    max_length: int | None = None,
    kernel: Literal["features", "gradients"] | None = None,
    write: str | Path | None = None,
    unlabelled: str | Path | None = None,
    batch: int | None = None,
    seed: int = 13,
    memory: str = "2GiB",
    out: str | Path | None = None,
    progress: bool = False,
) -> SuspiciousLabels:
    """Find the labels that look wrong to a model, and estimate how many are; no training.

    Args:
        model: see `ft.forecast`.
        data: see `ft.forecast`; all of its rows are asked about.
        tokenizer: of a model in memory.
        progress: show on standard error how far the work is.

    Raises:
        UsageError: an option that cannot be meant as it stands.
        DataError: rows that cannot be used.
        ModelError: a model that cannot be loaded, or that does not fit the data.
        StorageError: a place that cannot be written.
    """
    given = dict(locals())
    with calm(model):
        groups = asked_groups("labels", given)
        page = made_labels(**groups)
    return SuspiciousLabels(page, groups["wanted"].out)


def label_budget(model: Any, data: Any, **options: Any) -> LearningCurve:
    """The accuracy that more labels would bring, with intervals.

    Args:
        model: see `ft.forecast`.
        data: see `ft.forecast`; all of its rows are used.
        options: those of `ft.suspicious_labels`.

    Raises:
        UsageError, DataError, ModelError, StorageError: as in `ft.suspicious_labels`.
    """
    found = suspicious_labels(model, data, **options)
    return LearningCurve(found.page, found.folder)


def next_rows(model: Any, data: Any, unlabelled: str | Path, **options: Any) -> RowsToLabel:
    """The unlabelled rows whose labels would teach most, diverse within the batch.

    Args:
        model: see `ft.forecast`.
        data: see `ft.forecast`; the labelled rows.
        unlabelled: a file with the texts to choose from.
        options: those of `ft.suspicious_labels`; `batch` says how many to choose.

    Raises:
        UsageError, DataError, ModelError, StorageError: as in `ft.suspicious_labels`; or no new text.
    """
    found = suspicious_labels(model, data, unlabelled=unlabelled, **options)
    return RowsToLabel(found.page, found.folder)


def influences(
    model: Any, data: Any, row: int | Sequence[int] | None = None, ask: str | None = None, **options: Any
) -> RowInfluences:
    """The training rows that helped and hurt a prediction.

    Args:
        model: see `ft.forecast`.
        data: see `ft.forecast`.
        row: numbers of the rows to ask about, from 0.
        ask: a text to ask about.
        options: the other options of `foretune explain`, `tokenizer` and `progress`.

    Raises:
        UsageError: an option that there is not, or that cannot be meant as it stands; nothing is asked about.
        DataError, ModelError: rows or a model that cannot be used.
    """
    known = {**function_options("explain"), "tokenizer": None, "progress": False}
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise UsageError(f"There is no option {unknown!r}.{nearest(unknown, known)}")
    with calm(model):
        given = {**known, **options, "model": model, "data": data, "row": row, "ask": ask}
        return RowInfluences(made_explanation(**asked_groups("explain", given)))
