"""A page as Markdown, and its tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from foretune.page import Fact, Page, Table


def markdown(page: Page, command: str | None = None) -> str:
    """The page as Markdown; figures are named as files beside it.

    Args:
        page: what to write.
        command: what makes the page, if it is to be told.
    """
    parts = [f"# {page.title}"]
    if command is not None:
        parts.append(f"```\n{command}\n```")
    if page.answer:
        parts.append(f"**{_cell(page.answer)}**")
    parts += [_facts(facts) for facts in (page.about, page.facts) if facts]
    parts += [_list(lines) for lines in (page.notes, page.findings) if lines]
    for each in page.tables:
        parts.append("\n\n".join(([f"**{each.caption}**"] if each.caption else []) + [_rows(each)]))
    parts += [f"![{figure.title}]({figure.name}.svg)" for figure in page.figures]
    parts += [_list(page.details)] if page.details else []
    parts += [f"{each.title}\n\n```{each.language}\n{each.text}\n```" for each in page.listings]
    return "\n\n".join(parts) + "\n"


def csv_text(table: Table) -> str:
    """Header and rows, as CSV; the caption is left out."""
    made = io.StringIO()
    header = [column.heading for column in table.columns]
    csv.writer(made, lineterminator="\n").writerows([header, *table.texts])
    return made.getvalue()


def _facts(facts: Sequence[Fact]) -> str:
    return _list([f"**{fact.name}** {' '.join(fact.text.split())}" for fact in facts])


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _rows(table: Table) -> str:
    header = [column.heading for column in table.columns]
    alignment = ["---" if column.words else "---:" for column in table.columns]
    lines = [map(_cell, header), alignment, *(map(_cell, row) for row in table.texts)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
