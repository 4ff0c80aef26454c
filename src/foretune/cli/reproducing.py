"""`reproduce`: a printed table or figure of a paper, measured here.

OUT/MODEL/      cells (foretune.study.cell): kernels, runs and values of this model, shared by all tables
OUT/TABLE/      the page: page.md, a .csv for each table, an .svg for each figure
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import foretune
from foretune.cli.console import console, progress_console
from foretune.cli.data_folder import check_data_folder
from foretune.cli.options import ReportOptions
from foretune.cli.prepare import check_writable, versions
from foretune.cli.progress import busy, progress_bar
from foretune.cli.ranges import decimals, items, numbers
from foretune.cli.study_options import BudgetOptions, ReproduceOptions
from foretune.errors import UsageError
from foretune.model.load import load_model
from foretune.report.json import write_json
from foretune.report.pages import print_page, refuse_other, write_page
from foretune.study.budget import Budget
from foretune.study.recipe import Recipe, Study
from foretune.study.recipes import recipe_named
from foretune.text.builtin import load_task


@dataclass(frozen=True)
class Asked:
    """What is measured: the options, with the recipe's own settings for those left out."""

    model: str
    tasks: tuple[str, ...]
    ks: tuple[int, ...]
    seeds: tuple[int, ...]
    test: int


def run_reproduce(options: ReproduceOptions, cut: BudgetOptions, report: ReportOptions) -> None:
    """Measure a table and write its page, to the terminal too and, on request, to JSON.

    Raises:
        UsageError: an unknown table or task, or numbers out of range; before anything is loaded.
    """
    recipe = recipe_named(options.table)
    asked, budget = _asked(recipe, options), _budget(cut)
    check_data_folder(options.data, asked.tasks)
    page_folder, root = options.out / recipe.name, options.out / Path(asked.model).absolute().name
    refuse_other(page_folder)
    for folder in (root, *([] if report.json is None else [report.json.parent])):
        check_writable(folder)
    out, errors = console(), progress_console(quiet=report.quiet)
    with busy(errors, "load the model (the first time it is downloaded and converted)"):
        lm = load_model(asked.model, device=options.device)
    with progress_bar(errors) as progress:
        page = recipe.page(
            Study(
                lm=lm,
                tasks=asked.tasks,
                ks=asked.ks,
                seeds=asked.seeds,
                test=asked.test,
                root=root,
                data=options.data,
                budget=budget,
                memory=options.memory,
                progress=progress,
            )
        )
    command = _command(options, cut, asked)
    write_page(page_folder, page, command)
    if report.json is not None:
        about = {"foretune": foretune.__version__, "command": command, "versions": versions()}
        write_json(report.json, {**about, "page": page})
    print_page(out, page)
    out.print(f"\nWritten: {page_folder}", soft_wrap=True)


def _asked(recipe: Recipe, options: ReproduceOptions) -> Asked:
    """The options, with the recipe's defaults for those left out.

    Raises:
        UsageError: an unknown task, or a number out of range.
    """
    usual = recipe.defaults
    tasks = usual.tasks if options.tasks is None else tuple(items("--tasks", options.tasks, "mr,sst2"))
    if options.k is not None and not usual.ks:
        raise UsageError(f"{recipe.name} uses whole training sets and so has no k. Leave --k out.")
    ks = usual.ks if options.k is None else numbers("--k", options.k, "16,64")
    seeds = usual.seeds if options.seeds is None else numbers("--seeds", options.seeds, "13,21")
    test = usual.test if options.test is None else options.test
    known = tuple(load_task(task).name for task in tasks)
    return Asked(options.model or usual.model, known, ks, seeds, test)


def _budget(cut: BudgetOptions) -> Budget:
    rates = {
        optimiser: decimals(option, text, "1e-3,1e-2")
        for optimiser, option, text in (
            ("sgd", "--sgd-rates", cut.sgd_rates),
            ("adamw", "--adam-rates", cut.adam_rates),
        )
        if text is not None
    }
    sizes = None if cut.batch_sizes is None else numbers("--batch-sizes", cut.batch_sizes, "4,8")
    return Budget(cut.steps, cut.evaluate_every, sizes, rates)


def _command(options: ReproduceOptions, cut: BudgetOptions, asked: Asked) -> str:
    """What makes the page again, with every setting that was not given written out."""
    chosen: dict[str, object] = {
        "model": asked.model,
        "device": options.device if options.device != ReproduceOptions.device else None,
        "tasks": ",".join(asked.tasks),
        "k": ",".join(map(str, asked.ks)) or None,
        "seeds": ",".join(map(str, asked.seeds)),
        "test": asked.test,
        "data": options.data,
        "out": options.out if options.out != ReproduceOptions.out else None,
        **vars(cut),
    }
    given = [
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in chosen.items() if value is not None
    ]
    return " ".join(["foretune reproduce", options.table, *given])
