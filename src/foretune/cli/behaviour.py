"""`behaviour`: the measures of kernel behaviour on a run made by `tune`."""

from __future__ import annotations

import shlex

from foretune.cli.deliver import deliver, keep_page
from foretune.cli.options import FormulaOptions, ReportOptions
from foretune.cli.places import page_places
from foretune.cli.prepare import loaded_experiment
from foretune.cli.settings import typed_again
from foretune.cli.setup import made_formulas
from foretune.cli.tune import RunRecipe, finished_report, finished_run, read_recipe
from foretune.cli.tuning_options import BehaviourOptions
from foretune.cli.versions import versions
from foretune.kernels.formula import Formula
from foretune.page import Page
from foretune.pages.console import progress_console
from foretune.pages.progress import progress_bar
from foretune.regime.measure import Extent, measured_behaviour
from foretune.regime.page import behaviour_data, behaviour_page


def run_behaviour(measures: BehaviourOptions, report: ReportOptions) -> None:
    """The verdict and its numbers, to the terminal and, on request, to a folder and to JSON. Raises as `made_behaviour`."""
    command = "" if measures.out is None else _command(measures)
    deliver(made_behaviour(measures, report), report, folder=measures.out, command=command)


def made_behaviour(measures: BehaviourOptions, report: ReportOptions, recipe: RunRecipe | None = None) -> Page:
    """The page of the measures of a run, written into a folder where one is wanted.

    Args:
        measures: which run, and on how much.
        report: where the numbers go.
        recipe: of the run, where its model or rows are in memory; what the folder says by default.

    Raises:
        UsageError: the folder holds no finished run of `foretune tune`, or --out holds something else.
    """
    errors = progress_console(quiet=report.quiet, verbose=report.verbose)
    formula = _formula(measures)
    places = page_places(measures.out, _command(measures), report.json, measures.folder)
    recipe = recipe or read_recipe(measures.folder)
    finished_report(measures.folder)
    found = loaded_experiment(recipe.experiment, places, measures.folder, errors)
    run = finished_run(measures.folder, recipe, found)
    found.work.memory = measures.memory
    with progress_bar(errors) as found.work.progress:
        about = {"model": str(recipe.model.model), "task": str(recipe.data.data)}
        result = measured_behaviour(found, run, _extent(measures, formula), about)
    data = behaviour_data(result, str(measures.folder), versions(), found.work.stages.finished)
    page = behaviour_page(result, data)
    keep_page(measures.out, page, _command(measures))
    return page


def _command(measures: BehaviourOptions) -> str:
    return shlex.join(["foretune", "behaviour", *typed_again((measures,))])


def _formula(measures: BehaviourOptions) -> Formula:
    """The kernel of the fixed-features test."""
    return made_formulas(FormulaOptions(formula=measures.formula))[0]


def _extent(measures: BehaviourOptions, formula: Formula) -> Extent:
    return Extent(
        formula,
        measures.train_examples,
        measures.test_examples,
        measures.segment_examples,
        measures.segment_points,
    )
