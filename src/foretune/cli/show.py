"""`show`: a result that is kept, printed again."""

from __future__ import annotations

import shlex
from pathlib import Path

import foretune
from foretune.cli.beside import real_runs
from foretune.cli.deliver import deliver
from foretune.cli.labels_options import LABELS
from foretune.cli.options import ReportOptions, ShowOptions
from foretune.errors import UsageError
from foretune.experiment.asked import kept_reading
from foretune.experiment.folder import EXPERIMENT, FORECAST, KERNELS
from foretune.experiment.page import KernelData, kernel_descriptions, kernel_page
from foretune.experiment.record import KeptKernels, read_record
from foretune.finetune.page import run_page
from foretune.finetune.report import RESULT, read_report
from foretune.forecasting.figures import with_real_runs
from foretune.page import Page
from foretune.pages.folder import JSON, PAGE
from foretune.pages.html import REPORT, is_written_html, write_html
from foretune.pages.json import read_page
from foretune.store.atomic import check_file, move_command

_PAGES = (FORECAST, LABELS, JSON)


def run_show(options: ShowOptions) -> None:
    """Print a result again; on request, as a page in HTML too.

    Raises:
        UsageError: there is no result of foretune, or one of another format.
        KernelFolderError, StorageError: a folder that is damaged.
    """
    page = with_real_runs(kept_page(options.result), real_runs(options.result))
    if options.html is not None:
        _check_html(options.html)
        write_html(options.html, page, foretune.__version__)
    deliver(page, ReportOptions(details=options.details), folder=options.result)


def _check_html(file: Path) -> None:
    """See that a page may be written there.

    Raises:
        UsageError: the name does not end in .html, the folder has a page of its own, or something else stands there.
        StorageError: it cannot be written.
    """
    target = check_file(file)
    if target is None:
        return
    if target.suffix != ".html":
        raise UsageError(
            f"--html {file} does not end in .html. Choose such a name: --html {shlex.quote(f'{file}.html')}"
        )
    if (target.parent / PAGE).exists():
        raise UsageError(
            f"--html {file} is in a folder of a study, which has its own {REPORT}. Choose a place outside of it: --html "
            f"{shlex.quote(f'{target.parent}.html')}"
        )
    if target.exists() and not is_written_html(target):
        raise UsageError(
            f"--html {file} is not a page as foretune wrote it; it would be overwritten. Choose another file name, or "
            f"move that file: {move_command(target)}"
        )


def kept_page(place: Path) -> Page:
    """The page of a file that `--json` wrote, or of a folder of `--out`.

    Raises:
        UsageError: there is none.
        KernelFolderError, StorageError: a folder that is damaged.
    """
    if not place.is_dir():
        if not place.exists():
            raise UsageError(
                f"{place} does not exist. Expected a folder that a command made, or a .json file with its result."
            )
        return read_page(place)
    for name in _PAGES:
        if (place / name).is_file():
            return read_page(place / name)
    report = read_report(place)
    if report is not None:
        return run_page(report, place, kept_reading(report.about))
    around = (place, *place.absolute().parents[1:2])
    folder = next((each for each in around if _is_of_experiment(place.absolute(), each)), None)
    if folder is not None:
        return _kernels(folder)
    inner = sorted(file.parent for name in (*_PAGES, RESULT) for file in place.glob(f"*/{name}"))
    remedy = "Repeat the command that made it."
    if inner:
        remedy = f"Of its folders {len(inner)} hold one. Type for example: foretune show {shlex.quote(str(inner[0]))}"
    raise UsageError(
        f"{place} holds no finished result: expected one of {', '.join(_PAGES)}, {RESULT} and {EXPERIMENT.file} there. "
        f"{remedy}"
    )


def _is_of_experiment(place: Path, folder: Path) -> bool:
    """Whether a folder is that of an experiment, and a place is it, or one of its kernels."""
    return (folder / EXPERIMENT.file).is_file() and (place == folder.absolute() or place.parent.name == KERNELS)


def _kernels(folder: Path) -> Page:
    """The page of a folder of kernels, from its record."""
    record, _ = read_record(folder)
    kept = KeptKernels(folder, record)
    kernels = {label: kept.read(label) for label in record.kernel_labels}
    data = KernelData(**vars(record), kernel=kernel_descriptions(kernels), stages=())
    return kernel_page(kernels, folder, kept_reading(record.about), (), data)
