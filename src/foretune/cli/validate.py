"""`validate`: real fine-tuning of every candidate, and how well each score ranks the results.

OUT/MODEL/      cells (foretune.experiment.experiment): kernels, runs and values of this model
OUT/validate/   the page: page.md, a .csv for each table, an .svg for each figure
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import foretune
from foretune.cli.data import chosen_sample
from foretune.cli.deliver import MadePage, deliver
from foretune.cli.options import ModelOptions, ReportOptions
from foretune.cli.places import study_places
from foretune.cli.prepare import loaded_model
from foretune.cli.ranges import listed
from foretune.cli.settings import typed_again
from foretune.cli.show import kept_page
from foretune.cli.study_options import ValidateOptions
from foretune.cli.versions import versions
from foretune.cli.worker_options import WorkerOptions
from foretune.cli.workers import crew_for, source_of
from foretune.errors import UsageError
from foretune.experiment.plan import study_plan_page
from foretune.experiment.sample import Full, Sampled
from foretune.experiment.setting import PROBED_HEAD, PROMPT
from foretune.finetune.optimisers import AdamWOptimiser, refuse_missing_prodigy
from foretune.finetune.training import Training
from foretune.pages.console import progress_console
from foretune.pages.folder import write_page
from foretune.pages.progress import progress_bar
from foretune.text.builtin import load_task
from foretune.validation.data import validation_data
from foretune.validation.elsewhere import Placed, placed, require_other_tasks
from foretune.validation.items import carry_out_validation
from foretune.validation.page import validation_page
from foretune.validation.plan import validation_plan
from foretune.validation.runs import ValidationStudy, measured_candidates

_PAGE = "validate"
_OUTPUTS = {"head": PROBED_HEAD, "prompt": PROMPT}
SAMPLE = Sampled(128)


def run_validate(model: ModelOptions, options: ValidateOptions, workers: WorkerOptions, report: ReportOptions) -> None:
    """Run, score, rank; to a page, the terminal and, on request, to JSON. Raises as `made_validation` does."""
    made = made_validation(model, options, workers, report)
    deliver(made.page, report, folder=made.folder, command=made.command)


def made_validation(
    model: ModelOptions, options: ValidateOptions, workers: WorkerOptions, report: ReportOptions
) -> MadePage:
    """Run, score, rank; to a page in a folder.

    Raises:
        UsageError: wrong names or numbers, before anything is loaded; too few candidates.
    """
    tasks = tuple(load_task(task).name for task in listed(options, "tasks"))
    seeds = listed(options, "seeds")
    sample, grid = chosen_sample(options, SAMPLE, Full()), runs_grid(options)
    output = _OUTPUTS[options.output]
    if options.prodigy:
        refuse_missing_prodigy()
    studies = _studies(options)
    require_other_tasks(studies, tasks)
    warm_up = listed(options, "warm_up")
    command = _command(model, options)
    places = study_places(
        options.out, _PAGE, command, str(model.model), report.json, options.data, make=not options.plan
    )
    errors = progress_console(quiet=report.quiet, verbose=report.verbose)
    lm = loaded_model(model, errors)
    globs = listed(options, "candidates") or None
    with progress_bar(errors) as progress:
        study = ValidationStudy(
            lm=lm,
            tasks=tasks,
            sample=sample,
            seeds=seeds,
            test=options.test,
            rank=options.rank if options.method == "lora" else None,
            grid=grid,
            root=places.cells,
            data=options.data,
            candidates=globs,
            output=output,
            warm_up=warm_up,
            prodigy=options.prodigy,
            memory=options.memory,
            features=options.features,
            progress=progress,
        )
        if options.plan:
            return MadePage(study_plan_page(validation_plan(study), study.described))
        with crew_for(workers, source_of(model), lm) as crew:
            if crew is not None:
                carry_out_validation(study, crew)
            cells = measured_candidates(study)
    page = validation_page(validation_data(cells, versions(), studies), study)
    write_page(places.page, page, command, foretune.__version__)
    return MadePage(page, places.page, command)


def _studies(options: ValidateOptions) -> tuple[Placed, ...]:
    """The cells of the results that --prior names."""
    found: list[Placed] = []
    for place in listed(options, "prior"):
        page = kept_page(Path(place))
        if page.kind != _PAGE:
            raise UsageError(
                f"--prior {place} holds a result of `foretune {page.kind}`; expected one of `foretune validate`, such as "
                "runs/validate/validate."
            )
        record: Any = page.data
        found += placed(record)
    return tuple(found)


def runs_grid(options: ValidateOptions) -> tuple[Training, ...]:
    """The settings of every run: one per learning rate."""
    rates = listed(options, "learning_rates")
    # a whole number of epochs as an int: runs are named by their settings as they are written in code
    epochs = int(options.epochs) if options.epochs == int(options.epochs) else options.epochs
    return tuple(
        Training(
            optimiser=AdamWOptimiser(rate),
            batch_size=options.batch_size,
            epochs=epochs,
            evaluate_every=options.evaluate_every,
            best_by="loss",
        )
        for rate in rates
    )


def _command(model: ModelOptions, options: ValidateOptions) -> str:
    """What makes the page again."""
    return shlex.join(["foretune", "validate", *typed_again((model, options))])
