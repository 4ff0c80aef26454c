"""`tune`: fine-tuning into a folder, and such folders read again.

The folder is that of an experiment (foretune.experiment.folder), with

run.yaml         the options that repeat the run
runs/NAME/       the run itself (foretune.finetune.folder), point-0; of a grid, one folder per point
result.json      of a finished run: settings, curves and scores
"""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import foretune
from foretune.analysis.scores import Gain, Score, gained, predicted_classes, scored
from foretune.cli.deliver import check_report_place, deliver, keep_report
from foretune.cli.early import read_by, refuse_half_weights
from foretune.cli.followed import beside_forecast, draw_beside_forecast, followed_curve, recorded, shown_evaluations
from foretune.cli.from_forecast import FIELD, forecast_record
from foretune.cli.options import DataOptions, ModelOptions, OutputOptions, ReportOptions
from foretune.cli.places import Places, refuse_model_name
from foretune.cli.prepare import ExperimentOptions, facts_of, loaded_experiment, reported, said
from foretune.cli.settings import as_yaml, read_groups, repeatable
from foretune.cli.setup import made_method, made_training
from foretune.cli.tuning_options import MethodOptions, TrainingOptions, TuneOptions
from foretune.cli.versions import versions
from foretune.cli.worker_options import WorkerOptions
from foretune.cli.workers import crew_for, source_of
from foretune.errors import UsageError
from foretune.experiment.asked import kept_reading
from foretune.experiment.experiment import Experiment, run_name
from foretune.experiment.folder import EXPERIMENT, RUNS, SETTINGS, folder_description
from foretune.experiment.items import AskedCell, AskedGrid, carry_out_runs
from foretune.finetune.cost import training_cost
from foretune.finetune.folder import RUN, refuse_foreign_run
from foretune.finetune.methods import LinearProbing, Method, ProbedFirst
from foretune.finetune.page import TrainingCostData, run_page, training_cost_page
from foretune.finetune.report import RESULT, RunReport, read_report, report_file, run_report, write_report
from foretune.finetune.run import Run, fine_tuned
from foretune.finetune.search import paper_grid
from foretune.finetune.trackers import refuse_missing_trackers
from foretune.finetune.training import Training
from foretune.handover.callback import ForecastCallback
from foretune.model.batches import outputs_and_features
from foretune.model.head import HeadLogits
from foretune.page import Page
from foretune.pages.console import Console, progress_console
from foretune.pages.html import REPORT
from foretune.pages.progress import busy
from foretune.shapes import Int
from foretune.store.atomic import write_text
from foretune.store.json import strangers_in
from foretune.store.lock import held
from foretune.store.workspace import sweep_tree

_NO_MATTER = {"json", "out", "report_to"}


@dataclass(frozen=True)
class RunRecipe:
    """The options that determine a run."""

    model: ModelOptions
    data: DataOptions
    outputs: OutputOptions
    method: MethodOptions
    training: TrainingOptions
    run: TuneOptions

    @property
    def groups(self) -> tuple[Any, ...]:
        """Its groups of options."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def folder(self) -> Path:
        """Where the run goes; not of a plan, which may have none."""
        assert self.run.out is not None  # noqa: S101 - the rule beside --out has seen to it
        return self.run.out

    @property
    def experiment(self) -> ExperimentOptions:
        """What the experiment is."""
        return ExperimentOptions(self.model, self.data, self.outputs)

    def made(self) -> tuple[Method, list[Training]]:
        """The method and its settings: one, or the points of a grid.

        Raises:
            UsageError: options that are unknown, out of range, or contradict each other.
        """
        method = made_method(self.method)
        training = made_training(self.training, method)
        if self.run.grid is None:
            return method, [training]
        for name in ("learning_rate", "batch_size"):
            if getattr(self.training, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"--grid {self.run.grid} chooses the {name.replace('_', ' ')}; leave {option} out.")
        return method, paper_grid(method, training.optimiser, training)


def run_tune(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    method: MethodOptions,
    training: TrainingOptions,
    run: TuneOptions,
    workers: WorkerOptions,
    report: ReportOptions,
) -> None:
    """One run or a grid of runs, to a folder, the terminal and, on request, to JSON. Raises as `made_run` does."""
    recipe = RunRecipe(model, data, outputs, method, training, run)
    if run.plan:
        _check(recipe, report)
        return _planned(recipe, report, progress_console(quiet=report.quiet, verbose=report.verbose))
    return deliver(made_run(recipe, report, workers), report, folder=run.out)


def _check(recipe: RunRecipe, report: ReportOptions) -> Places:
    """See that the options fit and that the places are free, before the work; the places.

    Raises:
        UsageError: they do not, or are not.
    """
    refuse_half_weights(recipe.model)
    for point in recipe.made()[1][:1]:
        refuse_missing_trackers(point.report_to)
    out = recipe.run.out
    places = Places(report.json, () if out is None else (out,))
    places.check(read_by(recipe.model, recipe.data, recipe.outputs))
    if out is not None:
        _refuse_other(out, recipe)
        refuse_foreign_run(out / RUNS)
        check_report_place(out)
    return places


def made_run(recipe: RunRecipe, report: ReportOptions, workers: WorkerOptions) -> Page:
    """The page of a run or a grid of runs: trained into the folder, or read where it is finished there.

    Raises:
        UsageError: options that do not fit, or a folder that holds another run.
        ForetuneError: see `loaded_experiment` and `Experiment.search`.
    """
    if workers.workers is not None and recipe.run.grid is None:
        raise UsageError("--workers is for several runs, and this is one. Leave it out, or use --grid paper.")
    places, folder = _check(recipe, report), recipe.folder
    errors = progress_console(quiet=report.quiet, verbose=report.verbose)
    before = _kept(recipe)
    kept = before is not None
    if before is None:
        refuse_model_name(folder, recipe.model.model)
        with held(folder):
            _refuse_other(folder, recipe)  # another process may have begun or finished, since
            sweep_tree(folder)
            before = _kept(recipe) or _made(recipe, places, report, workers, errors)
    else:
        sweep_tree(folder)
        found = loaded_experiment(recipe.experiment, places, folder, errors)
        finished_run(folder, recipe, found)  # refuses other data and other weights
    about = kept_reading(before.about)
    if not (kept and (folder / REPORT).exists()):
        keep_report(folder, run_page(before, folder, about))
    return run_page(before, folder, about, kept=kept)


def _planned(recipe: RunRecipe, report: ReportOptions, errors: Console) -> None:
    """Print what the runs would need that are not finished in the folder; on request, write it as JSON."""
    method, grid = recipe.made()
    found = loaded_experiment(recipe.experiment, Places(report.json), None, errors)
    out = recipe.run.out
    done = [out is not None and not _unfinished(_run_folder(out, recipe, point), method) for point in range(len(grid))]
    left = [training for training, finished in zip(grid, done, strict=True) if not finished]
    with busy(errors, "time one batch"):
        needed = training_cost(found.outputs, found.task, found.split, method, left)
    data = TrainingCostData(
        **vars(needed), finished=len(grid) - len(left), folder=None if out is None else str(out), about=said(found)
    )
    deliver(training_cost_page(data, facts_of(found)), report)


def _kept(recipe: RunRecipe) -> RunReport | None:
    """The report of a finished run; None where it is not finished, or a part of it is not there any more."""
    report = read_report(recipe.folder)
    return None if report is None or _missing(recipe.folder, recipe, report) else report


def _made(
    recipe: RunRecipe, places: Places, report: ReportOptions, workers: WorkerOptions, errors: Console
) -> RunReport:
    """Train, and write settings and report."""
    chosen, grid = recipe.made()
    found = loaded_experiment(recipe.experiment, places, recipe.folder, errors)
    _refuse_changed(recipe, found)
    file = recipe.folder / SETTINGS
    if not file.is_file():
        write_text(file, as_yaml("tune", (*recipe.groups, report)))
    source = recipe.run.forecast
    curve = followed_curve(source, recipe.groups)
    found.work.callbacks = () if curve is None else (ForecastCallback(source),)
    with (
        shown_evaluations(errors, every=report.verbose and curve is None),
        redirect_stdout(sys.stderr),  # trackers print
        reported(found, "fine-tuning", errors),
        crew_for(workers, source_of(recipe.model), found.outputs.lm) as crew,
    ):
        if crew is not None:
            carry_out_runs(crew, [AskedGrid(AskedCell.of(found), found, chosen, grid)], found.work.progress)
        search = found.search(chosen, grid)
    history = {line.step: line.validation_loss for line in search.best.history}
    about = {**_about(found, recipe, chosen), **beside_forecast(source, curve, history)}
    before = _beside_start(found, search.best.predictions)
    made = run_report(search.best, None if recipe.run.grid is None else search, before, about)
    write_report(recipe.folder, made)
    draw_beside_forecast(source, recipe.folder, made)
    if source is not None and curve is not None:
        recorded(source, made)
    return made


def _refuse_changed(recipe: RunRecipe, found: Experiment) -> None:
    """See that a run from a forecast reads the rows, the model and the prompt of the forecast.

    Raises:
        UsageError: they have changed since, though the options are the same.
    """
    file = recipe.run.forecast
    if file is None:
        return
    record = forecast_record(file)
    options, asked = record[FIELD], repeatable(recipe.groups[:3])
    if not EXPERIMENT.same({name: options.get(name) for name in asked}, asked):
        return  # another experiment was asked for, by options beside --from
    before, now = ({**each, "versions": None} for each in (record["identity"], found.identity))
    if not EXPERIMENT.same(before, now):
        raise UsageError(
            f"The rows, the model or the prompt changed after {file} was made, though the options are the same. Repeat "
            "the forecast in a new folder, or name the files as they were."
        )


def _beside_start(found: Experiment, after: Int[np.ndarray, " m"]) -> tuple[Score, Gain] | None:
    """The test score before training, and the gain of predictions over it."""
    task, test = found.task, found.split.test
    if not test:
        return None
    start = outputs_and_features(found.outputs, test)
    for note in start.notes:
        warnings.warn(note, stacklevel=2)
    y, before = np.array(task.targets(test)), predicted_classes(start.outputs)
    return scored(y, before, task.metric), gained(y, before, after, task.metric)


def _about(found: Experiment, recipe: RunRecipe, method: Method) -> dict[str, Any]:
    """What the report says of the run besides its results."""
    task, split = found.task, found.split
    notes = []
    probing = isinstance(method, ProbedFirst | LinearProbing)
    if probing and isinstance(found.outputs, HeadLogits) and recipe.outputs.head == "probe":
        notes.append(
            "The head started from the solution of linear probing, so that training the head alone changes little. "
            "--head random starts without it."
        )
    return {
        "foretune": foretune.__version__,
        "model": str(recipe.model.model),
        "task": task.name,
        "metric": task.metric,
        "method": method.label,
        "outputs": found.outputs.description,
        "sizes": split.sizes,
        "left_out": split.left_out,
        **said(found),
        "notes": notes,
        "settings": repeatable(recipe.groups),
        "versions": versions(),
        "stages": found.work.stages.finished,
    }


def _refuse_other(folder: Path, recipe: RunRecipe) -> None:
    """See that a folder is free, or that it holds the same run.

    Raises:
        UsageError: it holds something else.
        StorageError: it cannot be read, or is of an older version.
    """
    names = strangers_in(folder)
    if EXPERIMENT.file in names:
        folder_description(folder)
    if not names or (EXPERIMENT.file in names and not {SETTINGS, RUNS, RESULT} & {*names}):
        return  # what stands there is of an experiment: of this one, as is seen when the data is read
    now = repeatable(recipe.groups)
    left_out = {field.name: field.default for group in recipe.groups for field in fields(group) if field.name in now}
    before = {**left_out, **_settings(folder, "Choose an empty or new folder for --out.")}  # an older version has fewer
    folder_description(folder)
    then, asked = ({key: value for key, value in found.items() if key not in _NO_MATTER} for found in (before, now))
    hint = f"repeat that run with --config {shlex.quote(str(folder / SETTINGS))}"
    RUN.refuse_other(folder, then, asked, hint)


def read_recipe(folder: Path) -> RunRecipe:
    """The options that made a run folder.

    Raises:
        UsageError: the folder is not one of `foretune tune`, or an option in it is of a wrong type or out of range.
    """
    _settings(folder, "Make one with `foretune tune MODEL DATA --out DIR`.")
    groups = {"model": ModelOptions, "data": DataOptions, "outputs": OutputOptions, "method": MethodOptions}
    groups |= {"training": TrainingOptions, "run": TuneOptions}
    return RunRecipe(**read_groups(folder / SETTINGS, groups, {"out": folder}))


def _settings(folder: Path, remedy: str) -> Mapping[str, Any]:
    """The options in the folder's run.yaml."""
    file = folder / SETTINGS
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"Cannot read {file}: {error}. Repeat the run in a new folder.") from error
    if not isinstance(values, dict) or "method" not in values:
        what = f"it has no {SETTINGS}" if values is None else f"its {SETTINGS} is not of `foretune tune`"
        raise UsageError(f"{folder} is not a folder of a fine-tuning run: {what}. {remedy}")
    return values


def finished_run(folder: Path, recipe: RunRecipe, found: Experiment) -> Run:
    """The run of a folder, read without training; of a grid, the best.

    Raises:
        UsageError: it is not finished, or its model or data have changed.
    """
    report = finished_report(folder)
    method, grid = recipe.made()
    number = report.chosen_point
    run = _run_folder(folder, recipe, number or 0)
    missing = _missing(folder, recipe, report)
    if missing:
        raise UsageError(
            f"{missing[0]} is missing or incomplete, though {report_file(folder)} is there. `{_again(folder)}` trains what "
            "is missing."
        )
    return fine_tuned(found.outputs, found.task, found.split, method, grid[number or 0], run)


def loaded_run(folder: Path, recipe: RunRecipe) -> Run:
    """A finished run with its model, read without training. Raises as `finished_run` and `loaded_experiment` do."""
    errors = progress_console(quiet=True)
    return finished_run(folder, recipe, loaded_experiment(recipe.experiment, Places(read=(folder,)), folder, errors))


def _again(folder: Path) -> str:
    """What repeats the run of a folder, or goes on with it."""
    return shlex.join(["foretune", "tune", "--config", str(folder / SETTINGS), "--out", str(folder)])


def _run_folder(folder: Path, recipe: RunRecipe, point: int) -> Path:
    """The folder of one run: of a grid, of one of its points."""
    return folder / RUNS / run_name(*recipe.made()) / f"point-{point}"


def _missing(folder: Path, recipe: RunRecipe, report: RunReport) -> list[Path]:
    """The stages of a finished run that are not there any more, or not whole."""
    return _unfinished(_run_folder(folder, recipe, report.chosen_point or 0), recipe.made()[0])


def _unfinished(run: Path, method: Method) -> list[Path]:
    """The folders of the stages of a run that have no results."""
    stages = [run / "probing", run / "tuning"] if isinstance(method, ProbedFirst) else [run]
    return [stage for stage in stages if not (stage / "result.json").is_file()]


def finished_report(folder: Path) -> RunReport:
    """The report of a finished run.

    Raises:
        UsageError: the run is not finished; the message says how to go on.
    """
    report = read_report(folder)
    if report is None:
        raise UsageError(f"The run in {folder} is not finished. Go on with `{_again(folder)}`.")
    return report
