"""Sentences made from the numbers of a table, where Malladi et al. 2023 states a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from foretune.analysis.kernel_behaviour import AnalogTest, LinearizationTest, Thresholds
from foretune.papers.malladi.scores import Scores, title

LIMITS = Thresholds()


def reached(scores: Scores, row: str, goal: str, points: float = LIMITS.points) -> tuple[str, ...]:
    """On how many tasks a row is at most so many points below another, with the lowest; none without both."""
    gaps = _gaps(scores, row, goal)
    good = [task for task in gaps if AnalogTest(scores.mean(row, task), scores.mean(goal, task)).within(points)]
    return _sentence(
        gaps,
        f"k = {scores.k}: {row} is within {100 * points:g} points of {goal}, or above it, on {len(good)} of {len(gaps)} "
        "task(s)",
        min,
        lambda gap: f"{100 * gap:+.1f}",
    )


def apart(scores: Scores, row: str, other: str) -> tuple[str, ...]:
    """How far two rows are apart at most, whichever is above; none without both."""
    gaps = _gaps(scores, row, other)
    if not gaps:
        return ()
    task = max(gaps, key=lambda name: abs(gaps[name]))
    return (
        f"k = {scores.k}: {row} and {other} are at most {100 * abs(gaps[task]):.1f} points apart ({title(task)}, "
        f"{100 * gaps[task]:+.1f}).",
    )


def recovered(scores: Scores, start: str, linear: str, tuned: str) -> tuple[str, ...]:
    """On how many tasks the linearized model recovers enough of the gain."""
    tests = {
        task: LinearizationTest(*(scores.mean(row, task) for row in (start, linear, tuned))) for task in scores.tasks
    }
    failed = [task for task, test in tests.items() if not np.isfinite(test.tuned)]
    gaining = {task: test.share for task, test in tests.items() if np.isfinite(test.share)}
    good = [task for task in gaining if tests[task].holds(LIMITS.share)]
    without = len(tests) - len(gaining) - len(failed)
    idle = f"; on {without} task(s) fine-tuning gained nothing" if without else ""
    idle += f"; on {len(failed)} task(s) every run failed" if failed else ""
    return _sentence(
        gaining,
        f"k = {scores.k}: the linearized model recovers at least {100 * LIMITS.share:g}% of what fine-tuning gains on "
        f"{len(good)} of {len(gaining)} task(s){idle}",
        min,
        lambda share: f"{100 * share:.0f}%",
    )


def moved_little(scores: Scores, row: str) -> tuple[str, ...]:
    """On how many tasks the kernels' distance stays below the threshold."""
    means = _finite({task: scores.mean(row, task) for task in scores.tasks})
    good = [task for task, value in means.items() if value < LIMITS.distance]
    return _sentence(
        means,
        f"k = {scores.k}: the distance is below {LIMITS.distance:g} on {len(good)} of {len(means)} task(s)",
        max,
        lambda value: f"{value:.2f}",
        "largest",
    )


def nearest_to_solved(scores: Scores, row: str) -> tuple[str, ...]:
    """Where the pretrained outputs are nearest to the labels, and where farthest."""
    means = _finite({task: scores.mean(row, task) for task in scores.tasks})
    if not means:
        return ()
    low, high = (choice(means, key=lambda task: means[task]) for choice in (min, max))
    return (
        f"The pretrained model is nearest to solving {title(low)} (mean |chi| {means[low]:.2f}) and farthest from "
        f"{title(high)} ({means[high]:.2f}).",
    )


def _gaps(scores: Scores, row: str, other: str) -> dict[str, float]:
    return _finite({task: scores.mean(row, task) - scores.mean(other, task) for task in scores.tasks})


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {task: value for task, value in values.items() if np.isfinite(value)}


def _sentence(
    values: Mapping[str, float],
    text: str,
    worst: Callable[..., str],
    written: Callable[[float], str],
    what: str = "lowest",
) -> tuple[str, ...]:
    if not values:
        return ()
    task = worst(values, key=lambda name: values[name])
    return (f"{text} ({what}: {title(task)}, {written(values[task])}).",)
