"""How much work the comparison of candidates may be, as one object."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Limits of the comparison.

    Attributes:
        steps: number of steps of each simulated run.
        every: steps between its evaluations.
        simulated: at most this many candidates are simulated, those of the smallest ridge risk; None for all.
        risk_rows: the risk that chooses them looks at this many rows of the training kernel; None for all.
        greedy_sizes: modules after which the greedy search hands over a candidate; it ends with the largest.
        greedy_pool: modules that stay in the greedy search after its first step, those of the largest gain.
        greedy_rows: the greedy search looks at this many rows of the training kernel, examples times outputs.
        compared: candidates that are compared over bootstrap resamples, best first.
        resamples: how often the examples are drawn again.
        seed: random seed of the resamples.
    """

    steps: int = 200
    every: int = 10
    simulated: int | None = None
    risk_rows: int | None = None
    greedy_sizes: tuple[int, ...] = (1, 2, 4, 8, 12)
    greedy_pool: int = 40
    greedy_rows: int = 96
    compared: int = 12
    resamples: int = 40
    seed: int = 0


_BY_ROWS = (
    (96, Effort()),
    (256, Effort(compared=8, resamples=20)),
    (2048, Effort(simulated=24, compared=6, resamples=16)),
    (float("inf"), Effort(simulated=12, risk_rows=1024, compared=3, resamples=8)),
)


def effort_for(rows: int) -> Effort:
    """Limits for a training kernel with this many rows, examples times outputs: seconds, not minutes."""
    return next(effort for most, effort in _BY_ROWS if rows <= most)


def limits(effort: Effort, candidates: int, rows: int, compared: int) -> tuple[str, ...]:
    """What was limited, in words.

    Args:
        effort: the limits.
        candidates: how many there were.
        rows: of the training kernel, examples times outputs.
        compared: how many were compared over resamples.
    """
    found = [
        f"Runs are simulated for {effort.steps} steps of full-batch gradient descent.",
        f"The greedy search adds at most {max(effort.greedy_sizes)} modules by the training risk, out of the "
        f"{effort.greedy_pool} with the largest gain of their own.",
    ]
    if rows > effort.greedy_rows:
        found.append(f"The greedy search looks at {effort.greedy_rows} of {rows} rows of the training kernel.")
    if effort.simulated is not None and effort.simulated < candidates:
        found.append(f"{effort.simulated} of {candidates} candidates, those of the smallest risk, were simulated.")
    if effort.risk_rows is not None and effort.risk_rows < rows:
        found.append(f"That risk is of {effort.risk_rows} of {rows} rows of the training kernel.")
    found.append(f"{compared} candidates were compared over {effort.resamples} resamples; others may tie too.")
    return tuple(found)
