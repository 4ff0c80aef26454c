"""`foretune`: forecast, kernel, solve, tune, behaviour, reproduce, validate, tasks, env."""

from __future__ import annotations

import os
import sys
import warnings

import typer
from typer.exceptions import Abort, TyperException

from foretune.cli.options import (
    BehaviourOptions,
    BlockOptions,
    BudgetOptions,
    DataOptions,
    ForecastOptions,
    FormulaOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    ReportOptions,
    ReproduceOptions,
    RunOptions,
    SolveFolder,
    SolverOptions,
    TaskName,
    TrainingOptions,
    TuneOptions,
    ValidateOptions,
)
from foretune.cli.settings import command
from foretune.errors import ForetuneError

_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    name="foretune",
    help="Forecast the fine-tuning of a pretrained language model from a few dozen labelled examples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def forecast(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    blocks: BlockOptions,
    wanted: ForecastOptions,
    run: RunOptions,
    report: ReportOptions,
) -> None:
    """Say what fine-tuning MODEL on DATA would reach, which parts matter, and which learning rate is stable.

    Example: foretune forecast smollm2 movies --k 16 --test 64
    """
    from foretune.cli.computing import run_forecast

    run_forecast(model, data, outputs, blocks, wanted, run, report)


def kernel(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    blocks: BlockOptions,
    formula: FormulaOptions,
    run: RunOptions,
    report: ReportOptions,
) -> None:
    """Compute the kernels of every parameter block on a few-shot split of DATA, into the folder --out.

    Example: foretune kernel minilm movies --k 16 --formula sgd,signgd,asymmetric,lora --rank 1,8,64 --out runs/movies
    """
    from foretune.cli.computing import run_kernel

    run_kernel(model, data, outputs, blocks, formula, run, report)


def solve(folder: SolveFolder, solver: SolverOptions, report: ReportOptions) -> None:
    """Solve the kernels of a folder made by `foretune kernel`: predictions on its test examples, with all grid scores.

    Example: foretune solve runs/movies --solver auto,logistic
    """
    from foretune.cli.solving import run_solve

    run_solve(folder.folder, solver, report)


def tune(
    model: ModelOptions,
    data: DataOptions,
    outputs: OutputOptions,
    method: MethodOptions,
    training: TrainingOptions,
    run: TuneOptions,
    report: ReportOptions,
) -> None:
    """Fine-tune MODEL on DATA, into the folder --out: curves, the best checkpoint by validation, its test score.

    Example: foretune tune smollm2 movies --method lora --rank 8 --out runs/lora
    """
    from foretune.cli.tuning import run_tune

    run_tune(model, data, outputs, method, training, run, report)


def behaviour(measures: BehaviourOptions, report: ReportOptions) -> None:
    """Say whether a run made by `foretune tune` behaved as its kernel says, with every number behind the verdict.

    Example: foretune behaviour runs/lora --json behaviour.json
    """
    from foretune.cli.behaving import run_behaviour

    run_behaviour(measures, report)


def reproduce(study: ReproduceOptions, budget: BudgetOptions, report: ReportOptions) -> None:
    """Measure a table or figure of a paper, into the folder --out: Markdown, CSV and SVG; it resumes where it stopped.

    Example: foretune reproduce lpft-features --model minilm --tasks mr --k 16 --seeds 13,21 --steps 200
    """
    from foretune.cli.reproducing import run_reproduce

    run_reproduce(study, budget, report)


def validate(model: ModelOptions, study: ValidateOptions, report: ReportOptions) -> None:
    """Fine-tune MODEL for many candidates, tasks and seeds, and say how well the forecast and other scores rank them.

    Example: foretune validate minilm --tasks mr,subj,trec --n 128 --seeds 13,21
    """
    from foretune.cli.validating import run_validate

    run_validate(model, study, report)


def tasks(name: TaskName, report: ReportOptions) -> None:
    """List the built-in tasks and models, or show one task: prompts, words, columns, limits, data, sources.

    Example: foretune tasks rte
    """
    from foretune.cli.listing import run_tasks

    run_tasks(name.name, report)


for run in (forecast, kernel, solve, tune, behaviour, reproduce, validate, tasks):
    app.command()(command(run))


@app.command()
def env() -> None:
    """Show versions, devices and the cache folder."""
    from foretune.cli.listing import run_env

    run_env()


def main() -> None:
    """Run the command line; every mistake ends in one message on standard error and exit code 1 or 2."""
    debug = "--debug" in sys.argv
    if not debug:
        _quiet()
    try:
        sys.exit(_exit_code())
    except TyperException as error:
        _fail(f"Error: {error.format_message()} See `foretune {' '.join(sys.argv[1:2])} --help`.", error.exit_code)
    except (Abort, KeyboardInterrupt):
        given = any(argument.startswith("--out") for argument in sys.argv)
        resumable = given or sys.argv[1:2] in (["tune"], ["reproduce"], ["validate"])
        _fail(
            "Stopped. "
            + ("Repeat the same command to go on where it stopped." if resumable else "Nothing was written.")
        )
    except ForetuneError as error:
        if debug:
            raise
        _fail(f"Error: {error}", error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        _fail("Error: out of memory. Use a smaller --memory, fewer examples (--k, --test), or --blocks.")
    except Exception as error:
        if debug:
            raise
        first = (str(error).splitlines() or [""])[0]
        _fail(f"Error: {type(error).__name__}: {first} This is not expected; repeat with --debug for the traceback.")


def _exit_code() -> int:
    """What the command ends with. An error on the way out of an interruption, such as a file closed twice, is its echo.

    Raises:
        KeyboardInterrupt: the command was interrupted.
    """
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if _follows_interruption(error):
            raise KeyboardInterrupt from error
        raise
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _follows_interruption(error: BaseException | None) -> bool:
    """Whether an error was raised while an interruption was being handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _fail(message: str, code: int = 1) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


def _quiet() -> None:
    """Leave only foretune's own messages: libraries announce what a user cannot act on."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module=r"(transformers|torch|huggingface_hub|zarr)\b.*")
    warnings.showwarning = lambda message, *_args, **_kw: print(f"Note: {message}", file=sys.stderr)
