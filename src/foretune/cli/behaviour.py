"""`behaviour`: the measures of kernel behaviour on a run made by `tune`."""

from __future__ import annotations

from foretune.cli.deliver import deliver
from foretune.cli.options import FormulaOptions, ReportOptions
from foretune.cli.places import Places
from foretune.cli.prepare import loaded_experiment, versions
from foretune.cli.setup import made_formulas
from foretune.cli.tune import finished_report, finished_run, read_recipe
from foretune.cli.tuning_options import BehaviourOptions
from foretune.kernels.formula import Formula
from foretune.pages.console import progress_console
from foretune.pages.progress import progress_bar
from foretune.regime.measure import Extent, measured_behaviour
from foretune.regime.page import behaviour_data, behaviour_page


def run_behaviour(measures: BehaviourOptions, report: ReportOptions) -> None:
    """The verdict and its numbers, to the terminal and, on request, to JSON.

    Raises:
        UsageError: the folder holds no finished run of `foretune tune`.
    """
    errors = progress_console(quiet=report.quiet)
    formula = _formula(measures)
    places = Places(report.json, read=(measures.folder,))
    places.check()
    recipe = read_recipe(measures.folder)
    finished_report(measures.folder)
    found = loaded_experiment(recipe.experiment, places, measures.folder, errors)
    run = finished_run(measures.folder, recipe, found)
    found.work.memory = measures.memory
    with progress_bar(errors) as found.work.progress:
        about = {"model": recipe.model.model, "task": recipe.data.data}
        result = measured_behaviour(found, run, _extent(measures, formula), about)
    data = behaviour_data(result, str(measures.folder), versions(), found.work.stages.finished)
    deliver(behaviour_page(result, data), report)


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
