"""Where a task's rows stand on the Hugging Face hub, and how they become rows of the task."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from foretune.errors import DataError, UsageError, nearest


@dataclass(frozen=True)
class HubSource:
    """A dataset of the hub.

    Attributes:
        id: the id, `owner/name`.
        configuration: which of the dataset's configurations, where it has several.
        train, test: splits of the dataset; without `test`, test examples come from the training split.
        revision: branch, tag or commit.
        columns: `text`, `text2` and `label` -> the dataset's column, or a pattern of columns such as
            `"{sentence1} {sentence2}"`.
        labels: the dataset's label -> the task's; a label that is not listed keeps its name.
    """

    id: str
    configuration: str | None = None
    train: str = "train"
    test: str | None = None
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for role, column in self.columns.items():
            try:
                fields = [parsed[1:] for parsed in string.Formatter().parse(column) if parsed[1] is not None]
            except ValueError as error:
                raise UsageError(
                    f"hub: columns: {role}: {column!r}: {error}. Write for example '{{title}} {{body}}'."
                ) from error
            if any(re.search(r"[.\[]", str(name)) or form or conversion for name, form, conversion in fields):
                raise UsageError(
                    f"hub: columns: {role}: {column!r}: expected names of columns alone in braces, such as {{body}}."
                )

    @property
    def name(self) -> str:
        """The dataset and its configuration, as `read_rows` takes them."""
        return f"{self.id}:{self.configuration}" if self.configuration else self.id

    def renamed(
        self, rows: Iterable[Mapping[str, object]], columns: Mapping[str, str], labels: Iterable[str]
    ) -> list[dict[str, object]]:
        """The dataset's rows with the task's columns and labels.

        A row without a label, or with -1, is one that nobody could label; its label is None.

        Args:
            rows: as the hub has them.
            columns: `text`, `text2`, `label` -> the task's column name.
            labels: the task's labels.

        Raises:
            UsageError: a column is missing.
            DataError: a label is none of the task's.
        """
        known = set(labels)
        renamed = []
        for row in rows:
            found = {role: self._value(row, role) for role in columns}
            marked = found["label"] is None or str(found["label"]) == "-1"
            label = None if marked else self.labels.get(str(found["label"]), str(found["label"]))
            if label is not None and label not in known:
                raise DataError(
                    f"{self.name} has the label {label!r}, which is not one of {', '.join(map(repr, sorted(known)))}."
                    f"{nearest(label, known)} Name it under hub: labels: in the task's YAML file."
                )
            renamed.append({columns[role]: label if role == "label" else value for role, value in found.items()})
        return renamed

    def _value(self, row: Mapping[str, object], role: str) -> object:
        column = self.columns.get(role, role)
        try:
            return column.format_map(row) if "{" in column else row[column]
        except KeyError as error:
            raise UsageError(
                f"{self.name} has no column {error}. Its columns are {', '.join(map(repr, row))}."
                f"{nearest(str(error.args[0]), row)} Name it under hub: columns: in the task's YAML file."
            ) from error
