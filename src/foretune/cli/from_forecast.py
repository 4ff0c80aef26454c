"""`--from DIR/forecast.json`: the options of the run that a forecast recommends, or of the forecast itself."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from foretune.cli.options import DataOptions, ModelOptions, OutputOptions
from foretune.cli.settings import typed_again
from foretune.errors import UsageError

FIELD = "tune_options"
"""Where forecast.json holds them."""


def from_forecast(context: typer.Context, file: Path | None) -> Path | None:
    """Take defaults for all options of `tune` from a forecast; what is typed, or given by --config, comes first."""
    if file is None:
        return None
    known = {str(parameter.name) for parameter in context.command.params}
    options = recommended_options(forecast_record(file), file)
    found = {name: _word(value) for name, value in options.items() if name in known}
    context.default_map = {**found, **(context.default_map or {})}
    return file


def asked_as_forecast(context: typer.Context, folder: Path | None) -> Path | None:
    """Take defaults for model, rows and question from a forecast; what is typed, or given by --config, comes first."""
    if folder is None:
        return None
    known = {str(parameter.name) for parameter in context.command.params} - {"out", "memory", "seed"}
    settings = forecast_record(folder)["about"]["settings"]
    found = {name: _word(value) for name, value in settings.items() if name in known}
    context.default_map = {**found, **(context.default_map or {})}
    return folder


def recommended_options(record: Mapping[str, Any], file: Path | None) -> Mapping[str, Any]:
    """The options of `foretune tune` that train what a forecast recommends.

    Args:
        record: what a forecast's JSON file holds.
        file: it or its folder, for messages; None for a forecast in memory.

    Raises:
        UsageError: it recommends no run.
    """
    place = "This forecast" if file is None else file
    if FIELD not in record:
        raise UsageError(f"{place} was made by an older version of foretune. Repeat the forecast in a new folder.")
    options = record[FIELD]
    if not isinstance(options, dict):
        out = "runs/lora" if file is None else f"{forecast_folder(file)}-run"
        words = shlex.join(["foretune", "tune", *_asked(record), "--method", "lora", "--out", out])
        raise UsageError(
            f"{place} recommends no run: its verdict is {str(record.get('verdict'))!r}. To train anyway, say what to "
            f"train: {words}"
        )
    return options


def forecast_record(file: Path) -> Mapping[str, Any]:
    """What a forecast's JSON file holds.

    Raises:
        UsageError: it is not one.
    """
    place = file / "forecast.json" if file.is_dir() else file
    try:
        record = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else None
    except (OSError, ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("kind") != "forecast":
        raise UsageError(
            f"{place} is not a forecast. Make one with `foretune forecast MODEL DATA --out DIR`, and name its "
            "forecast.json."
        )
    return record


def _asked(record: Mapping[str, Any]) -> list[str]:
    """Model, data and question of a forecast as they are typed."""
    settings = record.get("about", {}).get("settings", {})
    kinds: tuple[Any, ...] = (ModelOptions, DataOptions, OutputOptions)
    names = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
    given = ({name: value for name, value in settings.items() if name in known} for known in names)
    try:
        return typed_again(tuple(kind(**each) for kind, each in zip(kinds, given, strict=True)))
    except TypeError:  # an older file, which does not say
        return ["MODEL", "DATA"]


def forecast_folder(file: Path) -> Path:
    """The folder of a forecast that is named by itself or by its forecast.json."""
    return file if file.is_dir() else file.parent


def _word(value: object) -> str:
    """A value as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)
