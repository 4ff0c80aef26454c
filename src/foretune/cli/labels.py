"""`labels`: which labels look wrong, and how many."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

import foretune
from foretune.cli.data import every_row_setting
from foretune.cli.deliver import check_report_place, deliver, keep_report
from foretune.cli.early import ReadRows, asked_rows, read_by
from foretune.cli.held import Held
from foretune.cli.labels_options import LABELS, LabelsOptions, RowKernelOptions
from foretune.cli.options import AnswerOptions, ModelOptions, ReportOptions, RowOptions
from foretune.cli.places import Places, refuse_model_name
from foretune.cli.prepare import facts_of, loaded_model, reported, said, versions
from foretune.cli.settings import as_yaml, is_written_yaml, repeatable, typed_again
from foretune.errors import UsageError
from foretune.experiment.experiment import Experiment, Work, load_experiment
from foretune.experiment.folder import SETTINGS, command_of, folder_description
from foretune.labelling.budget import budget_of
from foretune.labelling.corrected import write_copy
from foretune.labelling.kernel import MOST_SQUARE, RowKernel, kernel_with_others, label_kernel, usual_kernel
from foretune.labelling.next_rows import NextRows, rows_to_label, unlabelled_rows
from foretune.labelling.page import LabelsData, labels_page
from foretune.labelling.rows import as_training
from foretune.labelling.suspicious import suspicion_of
from foretune.model.load import LanguageModel
from foretune.page import Page
from foretune.pages.console import Console, progress_console
from foretune.pages.json import write_page_json
from foretune.pages.progress import busy
from foretune.progress import Stages
from foretune.store.atomic import refuse_changed, write_text
from foretune.store.json import is_written_json
from foretune.text.builtin import load_rows

_BATCH = 20
_FILES = {
    SETTINGS: lambda file: is_written_yaml(file, ("labels",)),
    LABELS: is_written_json,
}
"""What is written into --out besides the kernel -> whether a file is one that was."""


def run_labels(
    model: ModelOptions, data: RowOptions, answer: AnswerOptions, wanted: LabelsOptions, report: ReportOptions
) -> None:
    """The labels, to the terminal and, on request, to JSON, a folder and a corrected copy. Raises as `made_labels`."""
    deliver(made_labels(model, data, answer, wanted, report), report, folder=wanted.out)


def made_labels(
    model: ModelOptions, data: RowOptions, answer: AnswerOptions, wanted: LabelsOptions, report: ReportOptions
) -> Page:
    """The page of the labels of all rows; written to --out and --write, where these are given.

    Raises:
        UsageError, DataError, ModelError, StorageError: options, rows, a model or places that cannot be used.
    """
    errors = progress_console(quiet=report.quiet, verbose=report.verbose)
    asked = LabelsAsked(model, data, answer)
    if wanted.unlabelled is None and wanted.batch is not None:
        raise UsageError(
            "--batch chooses among rows without a label. Name their file with --unlabelled, or leave --batch out."
        )
    places = labels_places(wanted, report)
    read = asked_rows(data, answer, errors, wanted.write)
    found = prepared_rows(asked, read, places, wanted, errors)
    with reported(found, "compare the rows", errors):
        kernel = label_kernel(found, found.split.train, wanted.kernel or usual_kernel(found, found.split.train))
    with found.work.stages.stage("compare each row with the others"), busy(errors, "compare each row with the others"):
        result = suspicion_of(read.rows, kernel)
    chosen = _next_rows(wanted, read, found, kernel)
    budget = None
    if len(read.rows.rows) <= MOST_SQUARE:
        with found.work.stages.stage("learning curve"), busy(errors, "fit parts of the rows"):
            budget = budget_of(read.rows, kernel, wanted.seed)
    if wanted.write is not None:
        write_copy(wanted.write, read.found, result)
    settings = (model, data, answer, wanted, report)
    numbers = LabelsData(
        model=str(model.model),
        data=str(data.data),
        task=found.description["task"],
        wrong=result.wrong,
        agreement=result.agreement,
        majority=result.majority,
        kernel=result.kernel,
        strength=result.strength,
        suspicious=len(result.suspicious),
        rows=result.rows,
        twins=result.twins,
        budget=budget,
        next_rows=chosen,
        written=None if wanted.write is None else str(wanted.write),
        about={"settings": repeatable(settings), **said(found), "versions": versions()},
        stages=found.work.stages.finished,
    )
    page = labels_page(result, numbers, facts_of(found), kernel.notes, _next(asked, wanted, kernel))
    if wanted.out is not None:
        write_text(wanted.out / SETTINGS, as_yaml("labels", settings))
        write_page_json(wanted.out / LABELS, page, foretune.__version__)
        keep_report(wanted.out, page)
    return page


def _next_rows(wanted: LabelsOptions, read: ReadRows, found: Experiment, kernel: RowKernel) -> NextRows | None:
    """The rows of --unlabelled to label next; None without it.

    Raises:
        UsageError, DataError: rows that cannot be read, that are all labelled already, or too many.
    """
    if wanted.unlabelled is None:
        return None
    task = read.found.task
    rows = unlabelled_rows(load_rows(wanted.unlabelled), task, read.rows)
    count = len(rows) + len(read.rows.rows)
    if not rows or count > MOST_SQUARE:
        what = "holds no text that has no label yet" if not rows else f"makes {count:,} rows with the labelled ones"
        raise UsageError(
            f"--unlabelled {wanted.unlabelled} {what}; expected some new texts, {MOST_SQUARE:,} rows in all."
        )
    with found.work.stages.stage("choose rows"):
        factors = kernel_with_others(found, kernel, [row.example for row in rows])
        return rows_to_label(factors, read.rows.y, len(read.rows.labels), rows, wanted.batch or _BATCH)


@dataclass(frozen=True)
class LabelsAsked:
    """The options that say which model is asked of which rows."""

    model: ModelOptions
    data: RowOptions
    answer: AnswerOptions


def labels_places(wanted: LabelsOptions, report: ReportOptions) -> Places:
    """What will be written to, looked at before the work.

    Raises:
        UsageError, StorageError: --out holds something else, or a file there is not as foretune wrote it.
    """
    if wanted.out is None:
        return Places(report.json)
    folder_description(wanted.out)
    made_by = command_of(wanted.out)
    if made_by not in (None, "labels"):
        raise UsageError(f"{wanted.out} holds a result of `foretune {made_by}`. Choose a new folder for --out.")
    for name, ours in _FILES.items() if wanted.out.is_dir() else ():
        refuse_changed(wanted.out / name, ours)
    check_report_place(wanted.out)
    return Places(report.json, (wanted.out,))


def prepared_rows(
    asked: LabelsAsked, read: ReadRows, places: Places, wanted: RowKernelOptions, errors: Console
) -> Experiment:
    """The model, asked of all rows; what is computed is kept in the folder of the places, if there is one.

    Raises:
        UsageError, ModelError, StorageError: see `load_experiment`; or a place that must not be written to.
    """
    places.check(read_by(asked.model, asked.data, asked.answer))

    def load() -> LanguageModel:
        for place in places.folders:
            refuse_model_name(place, asked.model.model)
        places.make()
        return loaded_model(asked.model, errors)

    setting = replace(every_row_setting(asked.data, asked.answer), seed=wanted.seed)
    work = Work(memory=wanted.memory, stages=Stages(read.stages.finished))
    return load_experiment(setting, load, next(iter(places.folders), None), work, as_training(read.found, read.rows))


def _next(asked: LabelsAsked, wanted: LabelsOptions, kernel: RowKernel) -> tuple[str, ...]:
    """The corrected copy, where none was written, and the slower kernel; of rows that have a name."""
    if isinstance(asked.model.model, Held) or isinstance(asked.data.data, Held):
        return ()
    command = ["foretune", "labels", *typed_again((asked.model, asked.data, asked.answer))]
    further = []
    if kernel.how == "features" and len(kernel.features) <= MOST_SQUARE:
        further.append(["--kernel", "gradients"])
    if wanted.write is None:
        further.append(["--write", "corrected.csv"])
    return tuple(shlex.join([*command, *words]) for words in further)
