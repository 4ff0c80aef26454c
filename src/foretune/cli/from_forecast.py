"""`--from DIR/forecast.json`: the options of the run that a forecast recommends, or of the forecast itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from foretune.errors import UsageError

FIELD = "tune_options"
"""Where forecast.json holds them."""


def from_forecast(context: typer.Context, file: Path | None) -> Path | None:
    """Take defaults for all options of `tune` from a forecast; what is typed, or given by --config, comes first."""
    if file is None:
        return None
    known = {str(parameter.name) for parameter in context.command.params}
    found = {name: _word(value) for name, value in recommended_options(file).items() if name in known}
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


def recommended_options(file: Path) -> Mapping[str, Any]:
    """The options of `foretune tune` that train what a forecast recommends.

    Raises:
        UsageError: the file is not a forecast, or recommends no run.
    """
    record = forecast_record(file)
    if FIELD not in record:
        raise UsageError(f"{file} was made by an older version of foretune. Repeat the forecast in a new folder.")
    options = record[FIELD]
    if not isinstance(options, dict):
        raise UsageError(
            f"{file} recommends no run: its verdict is {str(record.get('verdict'))!r}. Name what to train instead: "
            "foretune tune MODEL DATA --method lora --out DIR."
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


def _word(value: object) -> str:
    """A value as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)
