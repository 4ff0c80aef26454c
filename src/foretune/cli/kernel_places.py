"""Where `forecast` and `kernel` write to, looked at before the work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from foretune.cli.places import Places
from foretune.cli.settings import is_written_yaml
from foretune.errors import UsageError
from foretune.experiment.folder import FORECAST, KERNELS, SETTINGS, command_of, folder_description
from foretune.kernels.folder import KERNEL
from foretune.pages.html import REPORT, is_written_html
from foretune.store.atomic import refuse_changed
from foretune.store.json import is_written_json

_FILES: dict[str, Callable[[Path], bool]] = {
    SETTINGS: lambda file: is_written_yaml(file, ("forecast", "kernel")),
    FORECAST: is_written_json,
    REPORT: is_written_html,
}
"""What is written into --out besides kernels -> whether a file is one that was."""


def kernel_places(out: Path | None, json: Path | None, labels: Iterable[str]) -> Places:
    """What will be written to.

    Args:
        out: the folder of the experiment, if there is one.
        json: the file of `--json`, if there is one.
        labels: of the kernels to come.

    Raises:
        UsageError, StorageError: --out holds something else, or something that foretune did not write stands where a file
            of its own will be.
    """
    if out is None:
        return Places(json)
    folder_description(out)
    if command_of(out) == "tune":
        raise UsageError(f"{out} holds a fine-tuning run. Choose an empty or new folder for --out.")
    for label in labels:
        KERNEL.described(out / KERNELS / label)
    for name, ours in _FILES.items() if out.is_dir() else ():
        refuse_changed(out / name, ours)
    return Places(json, (out,))
