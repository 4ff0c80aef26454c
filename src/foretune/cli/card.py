"""`card`: a section of a model card, from a result that is kept."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import foretune
from foretune.cli.beside import forecasts_beside, real_runs
from foretune.cli.options import CardOptions
from foretune.cli.show import kept_page
from foretune.errors import UsageError
from foretune.pages.card import KINDS, CardScore, card_text, forecast_scores, is_written_card, run_scores
from foretune.store.atomic import check_file, move_command, write_text
from foretune.store.json import plain


def run_card(options: CardOptions) -> None:
    """The card, to standard output or to a file.

    Raises:
        UsageError: there is no such result, or something else stands where the card is to be written.
        StorageError: the file cannot be written.
    """
    if options.out is not None:
        _check(options.out)
    text = kept_card(options.result)
    if options.out is None:
        sys.stdout.write(text)
    else:
        write_text(options.out, text)


def kept_card(place: Path) -> str:
    """The card of a folder that a command made, or of a file of --json.

    Raises:
        UsageError: there is none, or it is a result of another kind.
        KernelFolderError, StorageError: a folder that is damaged.
    """
    page = kept_page(place)
    if page.kind not in KINDS:
        raise UsageError(
            f"{place} holds a result of `foretune {page.kind}`, which has no card. Expected one of "
            f"{', '.join(KINDS[:-1])} and {KINDS[-1]}. `foretune show {shlex.quote(str(place))}` prints it."
        )
    beside: list[CardScore] = []
    if page.kind == "forecast":
        for name, report in real_runs(place):
            beside += run_scores({"zero_shot": None, "test": plain(report.test)}, name)
    elif page.kind == "tune":
        for name, record in forecasts_beside(place):
            beside += forecast_scores(record, name)
    return card_text(page, foretune.__version__, beside)


def _check(file: Path) -> None:
    """See that a card may be written there.

    Raises:
        UsageError: the name does not end in .md, or something else stands there.
        StorageError: it cannot be written.
    """
    target = check_file(file)
    if target is None:
        return
    if target.suffix != ".md":
        raise UsageError(f"--out {file} does not end in .md. Choose such a name: --out {shlex.quote(f'{file}.md')}")
    if target.exists() and not is_written_card(target):
        raise UsageError(
            f"--out {file} is not a card as foretune wrote it; it would be overwritten. Choose another file name, or "
            f"move that file: {move_command(target)}"
        )
