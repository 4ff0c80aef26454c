"""What a command does last: its page goes to the terminal and, on request, to JSON."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import foretune
from foretune.cli.options import ReportOptions
from foretune.page import Page
from foretune.pages.console import console
from foretune.pages.folder import write_page
from foretune.pages.html import REPORT, is_written_html, write_html
from foretune.pages.json import write_page_json
from foretune.pages.terminal import print_page
from foretune.store.atomic import refuse_changed

_OPTION = "repeat with --details"


@dataclass(frozen=True)
class MadePage:
    """The page of a study, written to its folder, or the plan of one.

    Attributes:
        page: the study or its plan.
        folder: folder of the page; None for a plan, which is not written.
        command: what makes the page again; empty for a plan.
    """

    page: Page
    folder: Path | None = None
    command: str = ""


def deliver(page: Page, report: ReportOptions, *, folder: Path | None = None, command: str = "") -> None:
    """Write and print a page.

    Args:
        page: the result.
        report: where it goes besides the terminal, and how much of it is printed.
        folder: a folder that `foretune show` reads; None where nothing was kept.
        command: what made it, if that is told.

    Raises:
        UsageError: `--json` is a folder.
        StorageError: the disk is full or the folder cannot be written.
    """
    if report.json is not None:
        write_page_json(report.json, page, foretune.__version__, command)
    kept = folder if folder is not None else report.json
    where = _OPTION if kept is None else f"foretune show {shlex.quote(str(kept))} --details"
    print_page(console(), page, details=report.details, where=where)


def deliver_into(out: Path | None, page: Page, report: ReportOptions, command: str) -> None:
    """Write a page into a folder of its own, if one is wanted, and print it. Raises as `deliver` and `write_page` do.

    Args:
        out: the folder, seen to be free (`foretune.cli.places.page_places`).
        page: the result.
        report: where it goes besides.
        command: what made it.
    """
    keep_page(out, page, command)
    deliver(page, report, folder=out, command="" if out is None else command)


def keep_page(out: Path | None, page: Page, command: str) -> None:
    """Write a page into a folder of its own, if one is wanted. Raises as `write_page` does."""
    if out is not None:
        write_page(out, page, command, foretune.__version__)


def check_report_place(folder: Path) -> None:
    """See, before the work, that the folder's page in HTML is as foretune wrote it, or not there yet.

    Raises:
        UsageError: it is something else.
        StorageError: it cannot be written.
    """
    if folder.is_dir():
        refuse_changed(folder / REPORT, is_written_html)


def keep_report(folder: Path, page: Page) -> None:
    """Write the page in HTML into a folder of results.

    Args:
        folder: of the results.
        page: the result.

    Raises:
        UsageError, StorageError: as in `check_report_place`.
    """
    check_report_place(folder)
    write_html(folder / REPORT, page, foretune.__version__)
