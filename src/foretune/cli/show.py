"""`show`: a result that is kept, printed again."""

from __future__ import annotations

from pathlib import Path

from foretune.cli.deliver import deliver
from foretune.cli.options import ReportOptions, ShowOptions
from foretune.cli.tune import reading_of
from foretune.errors import UsageError
from foretune.experiment.asked import Asked, reading
from foretune.experiment.folder import EXPERIMENT
from foretune.experiment.page import KernelData, kernel_page
from foretune.experiment.record import read_kernel, read_record
from foretune.finetune.page import run_page
from foretune.finetune.report import RESULT, read_report
from foretune.page import Page
from foretune.pages.json import read_page
from foretune.text.account import Account

_PAGES = ("forecast.json", "page.json")


def run_show(options: ShowOptions) -> None:
    """Print a result again.

    Raises:
        UsageError: there is no result of foretune, or one of another format.
        KernelFolderError, StorageError: a folder that is damaged.
    """
    deliver(kept_page(options.result), ReportOptions(details=options.details), folder=options.result)


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
        return run_page(report, place, reading_of(report))
    if (place / EXPERIMENT.file).is_file():
        return _kernels(place)
    raise UsageError(
        f"{place} holds no finished result: expected one of {', '.join(_PAGES)}, {RESULT} and {EXPERIMENT.file} there. "
        "Repeat the command that made it."
    )


def _kernels(folder: Path) -> Page:
    """The page of a folder of kernels, from its record."""
    record, _ = read_record(folder)
    kernels = {label: read_kernel(folder, record, label) for label in record.kernels}
    said = record.about
    about = reading(Account(**said["data"]), Asked(**said["asked"])) if {"data", "asked"} <= set(said) else ()
    described = {label: {**kernel.description, "shape": kernel.array.shape} for label, kernel in kernels.items()}
    return kernel_page(kernels, folder, about, (), KernelData(**vars(record), kernel=described, stages=()))
