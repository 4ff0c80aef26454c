"""How much training a study pays for: the grids of the paper, or a cut of them that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from foretune.finetune.methods import Method
from foretune.finetune.optimisers import OPTIMISERS
from foretune.finetune.search import paper_grid
from foretune.finetune.training import Schedule, Training


@dataclass(frozen=True)
class Budget:
    """Settings of the runs of a study; what is left out is as in Malladi et al. 2023, Table 3 and Appendix A.

    Attributes:
        steps: number of steps of a run.
        evaluate_every: steps between evaluations.
        batch_sizes: batch sizes of a grid.
        learning_rates: learning rates of a grid, by optimiser.
        schedule, clip: schedule and clipping of a run, see `Training`; a recipe sets those of its paper's published
            code.
    """

    steps: int | None = None
    evaluate_every: int | None = None
    batch_sizes: tuple[int, ...] | None = None
    learning_rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    schedule: Schedule = "constant"
    clip: float | None = None

    def grid(self, method: Method, optimiser: str) -> list[Training]:
        """The settings to try for a method with an optimiser: `sgd` or `adamw`.

        Raises:
            UsageError: an optimiser without a grid, or a number out of range.
        """
        base = Training(steps=self.steps, evaluate_every=self.evaluate_every, schedule=self.schedule, clip=self.clip)
        paper = paper_grid(method, OPTIMISERS[optimiser](), base)
        sizes = self.batch_sizes or tuple(dict.fromkeys(point.batch_size for point in paper))
        rates = self.learning_rates.get(optimiser) or tuple(dict.fromkeys(p.optimiser.learning_rate for p in paper))
        return [
            replace(base, batch_size=size, optimiser=OPTIMISERS[optimiser](rate)) for size in sizes for rate in rates
        ]

    @property
    def described(self) -> str:
        """What was cut, in words."""
        found = []
        if self.steps is not None:
            found.append(f"{self.steps} steps instead of 32 per training example")
        if self.evaluate_every is not None:
            found.append(f"an evaluation every {self.evaluate_every} steps")
        if self.batch_sizes is not None:
            found.append(f"batches of {', '.join(map(str, self.batch_sizes))}")
        found += [
            f"{name} at {', '.join(f'{rate:g}' for rate in rates)} only" for name, rates in self.learning_rates.items()
        ]
        return f"Cut against the paper: {'; '.join(found)}." if found else "The paper's grids and numbers of steps."
