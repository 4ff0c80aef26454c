"""`explain`: which training rows a prediction rests on."""

from __future__ import annotations

from foretune.cli.deliver import deliver
from foretune.cli.early import asked_rows
from foretune.cli.labels import LabelsAsked, prepared_rows
from foretune.cli.labels_options import ExplainOptions
from foretune.cli.options import AnswerOptions, ModelOptions, ReportOptions, RowOptions
from foretune.cli.places import Places
from foretune.cli.prepare import facts_of, reported, said, versions
from foretune.cli.ranges import listed
from foretune.cli.settings import repeatable
from foretune.errors import UsageError
from foretune.labelling.explain import ExplainData, explain_page, explained_rows
from foretune.labelling.kernel import row_kernel
from foretune.labelling.rows import Row, RowsToAsk
from foretune.page import Page
from foretune.pages.console import progress_console


def run_explain(
    model: ModelOptions, data: RowOptions, answer: AnswerOptions, wanted: ExplainOptions, report: ReportOptions
) -> None:
    """The rows that helped and hurt, to the terminal and, on request, to JSON. Raises as `made_explanation`."""
    deliver(made_explanation(model, data, answer, wanted, report), report)


def made_explanation(
    model: ModelOptions, data: RowOptions, answer: AnswerOptions, wanted: ExplainOptions, report: ReportOptions
) -> Page:
    """The page of what predictions rest on.

    Raises:
        UsageError, DataError, ModelError, StorageError: options, rows, a model or places that cannot be used.
    """
    errors = progress_console(quiet=report.quiet, verbose=report.verbose)
    read = asked_rows(data, answer, errors)
    asked = rows_to_explain(read.rows, wanted)
    found = prepared_rows(LabelsAsked(model, data, answer), read, Places(report.json), wanted, errors)
    outside = [row.example for row in asked if row.row < 0]
    with reported(found, "compare the rows", errors):
        kernel = row_kernel(found, [*found.split.train, *outside], wanted.kernel)
    with found.work.stages.stage("what the predictions rest on"):
        explained = explained_rows(read.rows, kernel.factors, asked)
    settings = (model, data, answer, wanted, report)
    numbers = ExplainData(
        model=str(model.model),
        data=str(data.data),
        task=found.description["task"],
        kernel=kernel.how,
        explained=explained,
        about={"settings": repeatable(settings), **said(found), "versions": versions()},
        stages=found.work.stages.finished,
    )
    return explain_page(numbers, facts_of(found), kernel.notes)


def rows_to_explain(rows: RowsToAsk, wanted: ExplainOptions) -> tuple[Row, ...]:
    """The rows that are asked about: numbers in the first file, then a text from outside.

    Raises:
        UsageError: nothing is asked about, or there is no labelled row of a number.
    """
    source = rows.rows[0].source
    known = {row.row: row for row in rows.rows if row.source == source}
    numbers = () if wanted.row is None else listed(wanted, "row")
    missing = next((number for number in numbers if number not in known), None)
    if missing is not None:
        raise UsageError(
            f"{source} has no labelled row {missing}; its rows go from {min(known)} to {max(known)}. Choose others "
            "with --row."
        )
    if not numbers and wanted.ask is None:
        raise UsageError(
            "There is no row or text to explain. Name rows with --row 0,17, or write a text with --ask 'some text'."
        )
    texts = () if wanted.ask is None else (Row("--ask", -1, wanted.ask, wanted.ask2, None),)
    return (*(known[number] for number in numbers), *texts)
