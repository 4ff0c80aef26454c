"""What kernel solvers say, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from foretune.analysis.scores import Score
from foretune.analysis.solvers import Solution
from foretune.experiment.record import Record
from foretune.pages.layout import Column, note, table


@dataclass(frozen=True)
class Solved:
    """One solver on one kernel.

    Attributes:
        kernel: its label.
        solver: its name.
        score: on the test examples.
        solution: hyperparameters, the whole grid, predictions, conditioning.
    """

    kernel: str
    solver: str
    score: Score
    solution: Solution


def print_solutions(console: Console, record: Record, start: Score, found: Sequence[Solved], remark: str) -> None:
    """Print a table of scores, the pretrained model's own on top."""
    metric = record.task["metric"]
    sizes = record.sizes
    title = (
        f"{record.task['name']}: test {metric} with 95% interval ({sizes['train']} training, {sizes['validation']} "
        f"validation, {sizes['test']} test examples)"
    )
    columns = [
        Column("kernel", words=True),
        Column("solver", words=True),
        Column("chosen", words=True),
        Column("valid."),
        Column(metric),
        Column("from - to"),
        Column("rank", drop=2),
        Column("condition", drop=1),
    ]
    rows = [("", "zero-shot", "", "", f"{start.value:.3f}", f"{start.low:.2f} - {start.high:.2f}", "", "")]
    for item in found:
        chosen = item.solution.chosen
        shown = ", ".join(f"{name} {value:g}" for name, value in chosen.parameters.items())
        rows.append(
            (
                item.kernel,
                item.solver,
                shown if chosen.converged else f"{shown} (stopped early)",
                f"{chosen.validation:.3f}",
                f"{item.score.value:.3f}",
                f"{item.score.low:.2f} - {item.score.high:.2f}",
                str(item.solution.rank),
                f"{item.solution.condition_number:.1e}",
            )
        )
    console.print(table(console, title, columns, rows, elsewhere="--json has all"))
    if remark:
        console.print(note(remark))
