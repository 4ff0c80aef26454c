"""The places that a command writes to, looked at before the work: nothing is lost that foretune cannot make again there."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foretune.cli.held import Held
from foretune.errors import UsageError
from foretune.pages.folder import PAGE, page_folder
from foretune.store.atomic import check_file, check_folder, move_command
from foretune.store.json import is_written_json
from foretune.store.workspace import is_leftover_name

_MARKS = (
    "experiment.json",
    "examples.json",
    "kernel.json",
    "run.json",
    "run/run.json",
    "cell.json",
    "zarr.json",
    PAGE,
)
"""By each of these files a folder is known as one of results."""
_OWN = {*_MARKS, "run.yaml", "result.json", "forecast.json", "labels.json", "report.html", "log.jsonl"}


@dataclass(frozen=True)
class Places:
    """What a command will write to, looked at before the work.

    Attributes:
        json: the file of `--json`, if there is one.
        folders: folders that are to hold results.
        read: folders of results that are read.
        closed: folders of results where nothing else may stand.
    """

    json: Path | None = None
    folders: tuple[Path, ...] = ()
    read: tuple[Path, ...] = ()
    closed: tuple[Path, ...] = ()

    def check(self, inputs: Sequence[str | Path | None] = ()) -> None:
        """See that the file is a new one, or one that `--json` wrote before, and none of a result folder's own.

        Links are followed first. Devices, pipes and open descriptors are written through, whatever they are. Nothing is
        written into a folder that is read as model or data.

        Args:
            inputs: files and folders that are read.

        Raises:
            UsageError: it is something else, or a folder; or a place is inside a folder that is read.
            StorageError: it cannot be written.
        """
        for folder in (*self.folders, *self.closed):
            _refuse_inside_inputs(folder, f"Results in {folder}", inputs, "--out")
        if self.json is None:
            return
        if os.path.isfile(self.json) or not os.path.exists(self.json):  # noqa: PTH110, PTH113 - never an error
            self._refuse_inside(_resolved(self.json))
            _refuse_inside_inputs(self.json, f"--json {self.json}", inputs, "--json")
        target = check_file(self.json)
        if target is None:
            return
        for name in inputs:
            if name is not None and _is_same(Path(name), target):
                raise UsageError(
                    f"--json {self.json} is a file that this command reads; it would be overwritten. Choose another "
                    "file name."
                )
        if target.exists() and not is_written_json(target):
            raise UsageError(
                f"--json {self.json} is a file that --json did not write; it would be overwritten. Choose another file "
                f"name, or move that file: {move_command(target)}"
            )

    def _refuse_inside(self, target: Path) -> None:
        """See that a place is free for a file beside results.

        Raises:
            UsageError: it is a result folder, inside of one, or has the name of a file of its own.
        """
        for folder in map(_resolved, (*self.folders, *self.read, *self.closed)):
            if target == folder or target in folder.parents:
                raise UsageError(
                    f"--json {self.json} is the folder for the results, not a file. Choose a file name: --json "
                    f"{shlex.quote(f'{self.json}.json')}"
                )
            if folder not in target.parents:
                continue
            own = target.name.lower() in _OWN
            if folder in map(_resolved, self.closed) or target.parent != folder or target.suffix != ".json" or own:
                raise UsageError(
                    f"--json {self.json} is among the results in {folder}, which have files of their own there. Choose a "
                    f"place beside that folder: --json {shlex.quote(f'{folder}-report.json')}"
                )
        marks = [target.parent / name for name in _MARKS]
        found = [mark.name for mark in marks if os.path.isfile(mark) and not is_written_json(mark)]  # noqa: PTH113
        if is_leftover_name(target.name) or PAGE in found or (found and target.name.lower() in _OWN):
            raise UsageError(
                f"--json {self.json} has the name of a file that foretune keeps there with results; it would be "
                "overwritten. Choose another file name."
            )

    def make(self) -> None:
        """Make the folders, and see that they can be written to.

        Raises:
            StorageError: nothing can be written there.
        """
        for folder in self.folders:
            check_folder(folder)


def page_places(out: Path | None, command: str, json: Path | None, read: Path) -> Places:
    """The places of a command that reads a folder of results and makes a page, looked at before the work.

    Args:
        out: folder of the page, if one is wanted.
        command: what makes it.
        json: the file of `--json`, if there is one.
        read: the folder that is read.

    Raises:
        UsageError: --out holds something else, or is inside of what is read; or --json is a bad place.
        StorageError: something cannot be written.
    """
    if out is not None and page_folder(out.parent, out.name, command) != out:
        raise UsageError(f"{out} holds the page of another command. Choose another folder for --out.")
    pages = () if out is None else (out,)
    places = Places(json, pages, (read,), pages)
    places.check([read])
    return places


@dataclass(frozen=True)
class StudyPlaces:
    """Where a study goes.

    Attributes:
        page: folder of its page.
        cells: folder of everything that is kept of the model.
    """

    page: Path
    cells: Path


def study_places(
    out: Path, name: str, command: str, model: str, json: Path | None, data: Path | None = None, *, make: bool = True
) -> StudyPlaces:
    """The folders of a study, looked at before the work, and made if they are to be.

    Raises:
        UsageError: one of them is something else, the model's own folder for example.
        StorageError: one of them cannot be written.
    """
    found = StudyPlaces(page_folder(out, name, command), out / Path(model).absolute().name)
    if found.cells in (out / name, found.page) or _is_same(Path(model), found.cells):
        raise UsageError(
            f"Results of {model!r} would go to {found.cells}, a place that is in use for something else. Choose "
            "another --out."
        )
    places = Places(json, (found.cells,), closed=(found.cells, found.page))
    places.check([model, data])
    if make:
        places.make()
    return found


def refuse_model_name(folder: Path, model: str | Held) -> None:
    """See that a new folder will not be taken for the model.

    Raises:
        UsageError: it would be.
    """
    if isinstance(model, str) and not folder.exists() and folder.absolute() == Path(model).absolute():
        raise UsageError(
            f"A new folder {folder} would be taken for the model {model!r}. Choose another name, runs/{folder.name} for "
            "example."
        )


def refuse_within_inputs(file: Path, option: str, inputs: Sequence[str | Path | None]) -> None:
    """See that a file is not in a folder that is read.

    Raises:
        UsageError: it is.
    """
    _refuse_inside_inputs(file, f"{option} {file}", inputs, option)


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _refuse_inside_inputs(place: Path, what: str, inputs: Sequence[str | Path | None], option: str) -> None:
    """See that a place is not in a folder that is read: a file there may become a part of the model or of the data.

    Raises:
        UsageError: it is.
    """
    target = _resolved(place)
    for name in inputs:
        if name is None or not os.path.isdir(name):  # noqa: PTH112 - never an error
            continue
        folder = _resolved(Path(name))
        if folder in (target, *target.parents):
            beside = folder.parent / f"{folder.name or 'foretune'}-results" / ("" if target == folder else target.name)
            raise UsageError(
                f"{what} would be inside {name}, which is read here as model or data. Nothing is written into such a "
                f"folder. Choose a place outside of it, {option} {shlex.quote(str(beside))} for example."
            )


def _is_same(source: Path, file: Path) -> bool:
    """Whether a file is the source."""
    try:
        return file.exists() and source.samefile(file)
    except OSError:
        return False
