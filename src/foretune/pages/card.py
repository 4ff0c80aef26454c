"""A section of a model card in Markdown: what was forecast or tuned, in words that need no foretune to read.

The text says at its top whether somebody has read it: `<!-- proofread: no -->` until the author writes yes. Its last line
holds a checksum, by which a file that somebody changed is known. Metadata are those of huggingface_hub; a measured score
becomes an entry of `model-index`. Texts of data and labels are escaped: none of them is markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from foretune.naming import one_line
from foretune.page import Fact, Page
from foretune.pages.json import document
from foretune.pages.made import made
from foretune.pages.signed import is_signed, signed

KINDS = ("forecast", "tune", "kernel")
"""Results that have a card."""
_MARK = "\n\n<!-- foretune card "
_SPECIAL = re.compile(r"[\\`*_~\[\]|#$]|(?<=:)//|@|^\s*[-+]|(?<=^\d)[.)]")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""A model on the hub; a folder has no place in metadata."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_PROOFREAD = """<!-- proofread: no -->

> Written by foretune from its results, and not read by a person yet. Check it, complete it, and change the mark above this
> paragraph to `proofread: yes`."""
_LIMITS = (
    "A forecast describes classification, in the regime where training changes a model little. It says nothing of other "
    "uses, of other data than the rows above, or of harm that the model may do.",
    "Intervals are 95% intervals over test examples; they do not cover another sample of training examples.",
)
_ABOUT_ROWS = ("Read", "Labels", "Used", "Left out", "Prompt", "Words", "Head")
"""Facts of a page that a card repeats; an example row may be private."""


@dataclass(frozen=True)
class CardScore:
    """A figure of a card.

    Attributes:
        what: predicted or measured, of what.
        score: with `value`, `low` and `high`, of 1.
        measured: whether a real run reached it.
    """

    what: str
    score: Mapping[str, Any]
    measured: bool = False


def card_text(page: Page, version: str, beside: Sequence[CardScore] = ()) -> str:
    """The card of a forecast, a run or a folder of kernels.

    Args:
        page: of the result, one of `KINDS`.
        version: of foretune.
        beside: figures of results beside it: of real runs beside a forecast, of forecasts beside a run.
    """
    values = document(page, version)
    scores = [*_scores(values), *beside]
    parts = [
        f"---\n{_metadata(page, values, scores)}\n---",
        _PROOFREAD,
        f"# {literal(page.title)}",
        literal(page.answer),
        "## Data",
        _list(fact for fact in page.about if fact.name in _ABOUT_ROWS),
        _labels(values),
        "## Figures" if scores else "",
        _table(("figure", _metric(values), "95% interval"), map(_row, scores)) if scores else "",
        _list(page.facts),
        "## Limits",
        _bullets([literal(text) for text in page.notes] + list(_LIMITS)),
        "## How it was made",
        *_how(values),
    ]
    return signed("\n\n".join(part for part in parts if part), _MARK)


def is_written_card(path: Path) -> bool:
    """Whether a file is a card as foretune wrote it, and so may be replaced; an empty one is nothing yet."""
    return is_signed(path, _MARK)


def literal(text: str) -> str:
    """Text in which neither Markdown nor HTML means anything, on one line."""
    plain = "".join(_ENTITIES.get(character, character) for character in one_line(str(text)))
    return _SPECIAL.sub(lambda found: "".join(f"\\{character}" for character in found[0]), plain)


def _list(facts: Iterable[Fact]) -> str:
    return _bullets([f"**{literal(fact.name)}**: {literal(fact.text)}" for fact in facts])


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _labels(values: Mapping[str, Any]) -> str:
    """Label by label, how many rows have it, and how many examples of each part."""
    account = values.get("about", {}).get("data") or {}
    counts: Mapping[str, int] = account.get("labels") or {}
    if not counts:
        return ""
    parts = _by_part(values)
    rows = [(literal(name), f"{count:,}", *map(str, parts.get(name, ()))) for name, count in counts.items()]
    wide = all(name in parts for name in counts)
    header = ("label", "rows", *(("training", "validation", "test") if wide else ()))
    return _table(header, (row[: len(header)] for row in rows))


def _by_part(values: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]]:
    """Label -> examples for training, validation and test; none where the result does not hold them."""
    names, sizes, y = values.get("task", {}), values.get("sizes", {}), values.get("y")
    if y is None or not isinstance(names, Mapping):
        return {}
    ends = [0]
    for part in ("train", "validation", "test"):
        ends.append(ends[-1] + sizes[part])
    spans = [y[start:end] for start, end in pairwise(ends)]
    return {name: tuple(span.count(number) for span in spans) for number, name in enumerate(names["labels"])}


def _scores(values: Mapping[str, Any]) -> Iterator[CardScore]:
    """The figures of the result itself."""
    if values["kind"] == "forecast":
        yield from forecast_scores(values)
    elif values["kind"] == "tune":
        yield from run_scores(values)


def forecast_scores(values: Mapping[str, Any], of: str = "") -> Iterator[CardScore]:
    """Of a forecast: what was measured without training, and what is predicted.

    Args:
        values: its document.
        of: name of the folder, where it is another one.
    """
    found = values["forecast"]
    if not of:
        yield CardScore(f"measured, {found['started']}", found["before"])
        yield CardScore("measured, linear probing", found["probe"])
    picked = found["recommended"]
    best = found["advice"] if picked is None else picked
    name = best["candidate"]["name"]
    yield CardScore(f"predicted, {name}" + (f", forecast {of}" if of else ""), best["predicted"]["score"])


def run_scores(values: Mapping[str, Any], of: str = "") -> Iterator[CardScore]:
    """Of a run: measured before and after training. See `forecast_scores`."""
    if values["zero_shot"] is not None and not of:
        yield CardScore("measured, before training", values["zero_shot"])
    if values["test"] is not None:
        yield CardScore("measured, after training" + (f", run {of}" if of else ""), values["test"], measured=True)


def _row(each: CardScore) -> tuple[str, str, str]:
    score = each.score
    return literal(each.what), f"{score['value']:.3f}", f"{score['low']:.3f} to {score['high']:.3f}"


def _metric(values: Mapping[str, Any]) -> str:
    return str(values.get("about", {}).get("metric") or values.get("task", {}).get("metric") or "score")


def _model(values: Mapping[str, Any]) -> str:
    about = values.get("about", {})
    return str(values.get("identity", {}).get("model") or about.get("model") or "")


def _metadata(page: Page, values: Mapping[str, Any], scores: Sequence[CardScore]) -> str:
    """The metadata of huggingface_hub, as YAML; measured scores after training are its `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    about, metric = values.get("about", {}), _metric(values)
    task = one_line(str(about.get("task") or values.get("task", {}).get("name") or "data"))
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type="text",
            dataset_name=task,
            metric_type={"matthews": "matthews_correlation"}.get(metric, metric),
            metric_value=each.score["value"],
            metric_name=f"{metric}, 95% interval {each.score['low']:.3f} to {each.score['high']:.3f}",
        )
        for each in scores
        if each.measured
    ]
    model = _model(values)
    data = ModelCardData(
        base_model=model if _HUB_ID.fullmatch(model) else None,
        pipeline_tag="text-classification",
        tags=["foretune", f"foretune-{page.kind}"],
        model_name=one_line(page.title) if results else None,
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _how(values: Mapping[str, Any]) -> Iterator[str]:
    """Settings, versions and hashes."""
    found = made(values)
    if found.settings:
        yield f"Settings:\n\n{_fenced(found.settings, 'yaml')}"
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    yield f"Versions: {literal(versions)}."
    if found.identity:
        yield f"What determines the result, as values and hashes:\n\n{_fenced(_lines(found.identity), '')}"


def _lines(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{one_line(name)}: {one_line(value)}" for name, value in pairs)


def _fenced(text: str, language: str) -> str:
    """Text in a code block that nothing in it ends."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"
