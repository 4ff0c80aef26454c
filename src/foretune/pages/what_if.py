"""The numbers behind "what if" on the page of a forecast: choices by rank and size, and losses by learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 800


def what_if(kind: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page's script answers from; None where there is nothing to ask.

    Args:
        kind: of the page.
        values: its document (`foretune.pages.json.document`).
    """
    if kind != "forecast":
        return None
    found = values["forecast"]
    compared, picked = found["comparison"], found["recommended"]
    field = compared["criterion"]["field"]
    every = [_choice(item, field) for item in compared["candidates"][:_MOST]]
    chosen, rate = (
        (found["advice"]["candidate"], found["adamw"]) if picked is None else (picked["candidate"], picked["adamw"])
    )
    runs = [] if rate is None else rate["runs"]
    return {
        "metric": values["task"]["metric"],
        "criterion": compared["criterion"]["name"],
        "candidates": every,
        "ranks": sorted({item["rank"] for item in every if item["rank"] is not None}),
        "picked": None if picked is None else _choice(chosen, field),
        "of": _choice(chosen, field)["title"],
        "start": runs[0]["validation_losses"][0] if runs else None,
        "rates": [[run["learning_rate"], _lowest(run["validation_losses"][1:])] for run in runs],
    }


def _choice(item: Mapping[str, Any], field: str) -> dict[str, Any]:
    method = "full tuning" if item["rank"] is None else f"LoRA rank {item['rank']}"
    if item["kind"] == "linear probing":
        method = ""
    elif item["head"]:
        method += " + head"
    spread = item["spread"]
    return {
        "title": ", ".join(filter(None, (item["name"], method))),
        "rank": item["rank"],
        "parameters": item["parameters"],
        "value": _rounded(item["score"][field]),
        "score": _rounded(item["score"]["score"]["value"]),
        "tie": spread is not None and not spread["behind_low"] > 0,
    }


def _lowest(losses: list[Any]) -> float | None:
    """The smallest loss; None for a run that diverged at once."""
    finite = [loss for loss in losses if isinstance(loss, float | int)]
    return _rounded(min(finite)) if finite else None


def _rounded(value: Any) -> float:
    return float(f"{value:.5g}") if isinstance(value, float | int) else 1e9
