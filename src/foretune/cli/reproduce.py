"""`reproduce`: a printed table or figure of a paper, measured here.

OUT/MODEL/      cells (foretune.experiment.experiment): kernels, runs and values of this model, shared by all tables
OUT/TABLE/      the page: page.md, a .csv for each table, an .svg for each figure
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

import foretune
from foretune.cli.data import check_data_folder
from foretune.cli.deliver import MadePage, deliver
from foretune.cli.options import ModelOptions, ReportOptions
from foretune.cli.places import study_places
from foretune.cli.prepare import loaded_model
from foretune.cli.ranges import label_words, listed
from foretune.cli.settings import option_words
from foretune.cli.study_options import BudgetOptions, ReproduceOptions
from foretune.cli.versions import versions
from foretune.cli.worker_options import WorkerOptions
from foretune.cli.workers import crew_for, source_of
from foretune.errors import UsageError, nearest
from foretune.experiment.budget import Budget
from foretune.experiment.plan import study_plan_page
from foretune.pages.console import progress_console
from foretune.pages.folder import write_page
from foretune.pages.progress import progress_bar
from foretune.papers.data import ReproductionData
from foretune.papers.items import carry_out_recipe
from foretune.papers.plan import recipe_plan
from foretune.papers.recipe import Recipe, Study
from foretune.papers.recipes import recipe_named
from foretune.text.builtin import load_task


@dataclass(frozen=True)
class RecipeSettings:
    """What is measured: the options, with the recipe's own settings for those left out."""

    model: str
    tasks: tuple[str, ...]
    ks: tuple[int, ...]
    seeds: tuple[int, ...]
    test: int
    words: tuple[tuple[str, str], ...]


def run_reproduce(options: ReproduceOptions, cut: BudgetOptions, workers: WorkerOptions, report: ReportOptions) -> None:
    """Measure a table and write its page, to the terminal too and, on request, to JSON. Raises as `made_reproduction`."""
    made = made_reproduction(options, cut, workers, report)
    deliver(made.page, report, folder=made.folder, command=made.command)


def made_reproduction(
    options: ReproduceOptions, cut: BudgetOptions, workers: WorkerOptions, report: ReportOptions
) -> MadePage:
    """Measure a table, and write its page to a folder.

    Raises:
        UsageError: an unknown table or task, or numbers out of range; before anything is loaded.
    """
    recipe = recipe_named(options.table)
    asked, budget = _asked(recipe, options), _budget(cut)
    if options.tasks is None:  # else the data was looked at before this module was imported
        check_data_folder(options.data, asked.tasks)
    command = _command(options, cut, asked)
    places = study_places(
        options.out, recipe.name, command, str(asked.model), report.json, options.data, make=not options.plan
    )
    errors = progress_console(quiet=report.quiet, verbose=report.verbose)
    model = ModelOptions(asked.model, device=options.device)
    lm = loaded_model(model, errors)
    with progress_bar(errors) as progress:
        study = Study(
            lm=lm,
            tasks=asked.tasks,
            ks=asked.ks,
            seeds=asked.seeds,
            test=asked.test,
            root=places.cells,
            data=options.data,
            budget=budget,
            memory=options.memory,
            words=asked.words,
            first_piece=options.first_piece,
            progress=progress,
        )
        if options.plan:
            about = {"Table": f"{recipe.name}: {recipe.title}", "Model": lm.name, "Tasks": ", ".join(asked.tasks)}
            return MadePage(study_plan_page(recipe_plan(recipe, study), about))
        with crew_for(workers, source_of(model), lm) as crew:
            if crew is not None:
                carry_out_recipe(recipe, study, crew)
            page = recipe.page(study)
    page = replace(page, kind="reproduce", data=ReproductionData(versions()))
    write_page(places.page, page, command, foretune.__version__)
    return MadePage(page, places.page, command)


def _asked(recipe: Recipe, options: ReproduceOptions) -> RecipeSettings:
    """The options, with the recipe's defaults for those left out.

    Raises:
        UsageError: an unknown task, or a number out of range.
    """
    usual = recipe.defaults
    tasks = listed(options, "tasks") or usual.tasks
    if options.k is not None and not usual.ks:
        raise UsageError(f"{recipe.name} uses whole training sets and so has no k. Leave --k out.")
    ks = listed(options, "k") or usual.ks
    seeds = listed(options, "seeds") or usual.seeds
    test = usual.test if options.test is None else options.test
    known = tuple(load_task(task).name for task in tasks)
    return RecipeSettings(options.model or usual.model, known, ks, seeds, test, _words(options.words, known))


def _words(text: str | None, tasks: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Label words that were asked for.

    Raises:
        UsageError: a label that none of the tasks has.
    """
    words = {} if text is None else label_words(text)
    labels = list(dict.fromkeys(label for task in tasks for label in load_task(task).labels))
    for label in words:
        if label not in labels:
            raise UsageError(
                f"--words names the label {label!r}, which none of the tasks has. Their labels are {', '.join(labels)}."
                f"{nearest(label, labels)}"
            )
    return tuple(words.items())


def _budget(cut: BudgetOptions) -> Budget:
    rates = {"sgd": listed(cut, "sgd_rates"), "adamw": listed(cut, "adam_rates")}
    given = {optimiser: chosen for optimiser, chosen in rates.items() if chosen}
    return Budget(cut.steps, cut.evaluate_every, listed(cut, "batch_sizes") or None, given)


def _command(options: ReproduceOptions, cut: BudgetOptions, asked: RecipeSettings) -> str:
    """What makes the page again, with every setting that was not given written out."""
    chosen: dict[str, object] = {
        "model": asked.model,
        "device": options.device if options.device != ReproduceOptions.device else None,
        "tasks": ",".join(asked.tasks),
        "k": ",".join(map(str, asked.ks)) or None,
        "seeds": ",".join(map(str, asked.seeds)),
        "test": asked.test,
        "words": options.words,
        "data": options.data,
        "out": options.out if options.out != ReproduceOptions.out else None,
        **vars(cut),
        "first_piece": options.first_piece or None,
    }
    given = option_words({name: value for name, value in chosen.items() if value is not None})
    return shlex.join(["foretune", "reproduce", options.table, *given])
