"""The first answers of a forecast in words: will it work, train what, how."""

from __future__ import annotations

from foretune.candidates.candidate import PROBING, Candidate
from foretune.candidates.prediction import Prediction
from foretune.candidates.verdict import Verdict
from foretune.forecasting.forecast import PoolForecast
from foretune.forecasting.recommended import Recommendation
from foretune.page import short_count

_NAMED = 2


_ANSWERS: dict[Verdict, str] = {
    "help": "Yes.",
    "may": "Perhaps: the gain may be chance.",
    "cannot tell": "It cannot be told: no gain is seen, and the rows are too few to exclude one.",
    "no": "No: training is not expected to help.",
}
_ANSWERS_OF_PROBING: dict[Verdict, str] = {
    "help": "Yes, by linear probing. Adapting is not expected to beat it.",
    "may": "Perhaps, by linear probing: the gain may be chance. Adapting is not expected to beat it.",
    "cannot tell": "It cannot be told: linear probing gains nothing here, and the rows are too few to exclude a gain. "
    "Adapting is not expected to beat it.",
    "no": "No: neither linear probing nor adapting is expected to help.",
}
"""What is said first where nothing beats linear probing, which is then what would be trained."""
_NO_BEYOND_THE_PROBE = "No: training is not expected to beat the linear probe that the head starts from."


def short_answer(found: PoolForecast, metric: str) -> str:
    """The verdict and what to train, in one short sentence."""
    picked = found.recommended
    if picked is None:
        score = found.advice.predicted.score
        return (
            f"No: {metric} {found.before.value:.2f} now, {score.value:.2f} predicted. Training is not expected to help."
        )
    score = picked.predicted.score
    word = {"help": "Yes", "may": "Perhaps", "cannot tell": "It cannot be told", "no": "No"}[picked.verdict]
    return f"{word}: {metric} {found.before.value:.2f} -> {score.value:.2f} with {short_name(picked.candidate)}."


def will_it_work(found: PoolForecast, metric: str) -> str:
    """The verdict, with the scores before and after, the gain, and what costs nothing."""
    picked, before = found.recommended, found.before
    word = "no" if picked is None else picked.verdict
    score = found.predicted.score
    said = (_ANSWERS if found.advice.beats_probing is not False else _ANSWERS_OF_PROBING)[word]
    probed = "linear probing" in found.started
    if probed and word == "no":
        said = _NO_BEYOND_THE_PROBE
    beside = ", threshold set on validation" if found.thresholded else ""
    change = (
        f"{metric[0].upper()}{metric[1:]} {before.value:.2f} ({found.started}{beside}) -> {score.value:.2f} "
        f"(95%: {score.low:.2f} - {score.high:.2f})."
    )
    probe, majority = found.probe.value, found.majority.value
    alone = "A probe without threshold" if probed and found.thresholded else "A linear probe alone"
    return f"{said} {change}\n{_gain(found.predicted)}{alone}: {probe:.2f}, the majority label: {majority:.2f}."


def _gain(predicted: Prediction) -> str:
    """What decides, where something moves: the gain on all labelled examples apart from training, with a space behind.

    The fall of their loss is named where it decides.
    """
    gain, fallen = predicted.gain, predicted.loss_gain
    if not predicted.moves:
        return ""
    interval = f"95%: {gain.low:+.2f} to {gain.high:+.2f}"
    loss = f", their loss {-fallen.value:+.3f} ({-fallen.high:+.3f} to {-fallen.low:+.3f})" if predicted.by_loss else ""
    return f"Gain on {gain.examples} examples: {gain.value:+.2f} ({interval}){loss}. "


def what_to_train(found: PoolForecast, picked: Recommendation) -> str:
    """What to train, and how many choices tie with it."""
    first, chosen = found.advice.candidate, picked.candidate
    if chosen.kind == PROBING:
        return f"The head alone, by linear probing ({chosen.parameters:,} parameters)."
    picks = f"{short_name(chosen)} ({chosen.parameters:,} parameters)"
    if picked.ties == 1:
        return f"{picks}: the first by {found.comparison.criterion.name}."
    if chosen is first:
        return f"{picked.ties} choices tie: take the smallest, {picks}. It is also first by simulation."
    smallest = "take the smallest" if _is_smallest(found, picked) else "take the smallest that gains"
    return (
        f"{picked.ties} choices tie: {smallest}, {picks}. First by {found.comparison.criterion.name}: {short_name(first)} "
        f"({short_count(first.parameters)})."
    )


def _is_smallest(found: PoolForecast, picked: Recommendation) -> bool:
    tied = [item for item in found.comparison.candidates if item.title in found.advice.ties]
    return all(item.parameters >= picked.candidate.parameters for item in (*tied, found.advice.candidate))


def how_to_train(picked: Recommendation) -> str:
    """Optimiser, rate, batches and steps."""
    rate = picked.adamw
    if rate.learning_rate is None:
        return f"No learning rate lowers the validation loss in {rate.steps} steps of AdamW, batches of {rate.batch}."
    upper = "; the highest tried, so try lower too" if rate.at_limit else ""
    return (
        f"AdamW at {rate.learning_rate:.1e} ({rate.schedule}{upper}), batches of {rate.batch}, {rate.steps} steps, best "
        f"checkpoint by validation loss ({rate.expected_loss:.3f} nats expected)."
    )


def short_name(item: Candidate) -> str:
    """A choice as a short sentence names it, the modules of a greedy one with it."""
    if item.kind == PROBING:
        return "the head alone"
    if item.kind != "greedy":
        return f"{item.label}, {item.method}"
    modules = [".".join(name.removesuffix(".weight").split(".")[-3:]) for name in item.blocks[:_NAMED]]
    more = f" and {len(item.blocks) - _NAMED} more" if len(item.blocks) > _NAMED else ""
    return f"{', '.join(modules)}{more}, {item.method}"
