"""What is seen of a cell's candidates before any of them is trained; what is kept is not computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from foretune.candidates.adam import TOGETHER
from foretune.candidates.announced import ANNOUNCED, Announced, announced, announcing_pool
from foretune.candidates.candidate import Candidate
from foretune.candidates.evidence import Evidence, Pool
from foretune.candidates.pool import pool_blocks, pool_formulas, pool_of
from foretune.candidates.prediction import OFF
from foretune.candidates.scores import SCORES, determinants, warmed_name
from foretune.candidates.sketched import NOT_MEASURED, measured_error
from foretune.experiment.experiment import Experiment
from foretune.finetune.training import Training
from foretune.finetune.warm_up import warm_up_training
from foretune.kernels.sketch import Sketch
from foretune.store.kept import identity_hash


def sketch_key(sketch: Sketch | None) -> dict[str, object]:
    """What determines a value that rests on sketched kernels, beside the rest."""
    return {} if sketch is None else {"sketch": repr(sketch)}


@dataclass(frozen=True)
class KeptEvidence:
    """What is seen of a cell's candidates before training, or after a warm-up: kept, or from a pool made when needed.

    Attributes:
        cell: model and data; it keeps the values.
        chosen: the candidates that are run.
        grid: settings of the runs.
        warm_up: steps; 0 for the model before training.
        sketch: how kernels are sketched; None for exact ones.
    """

    cell: Experiment
    chosen: Sequence[Candidate]
    grid: Sequence[Training]
    warm_up: int = 0
    sketch: Sketch | None = None

    @cached_property
    def pool(self) -> Pool:
        """With the kernels of all of them."""
        cell = self.cell.warmed(self.warm_up) if self.warm_up else self.cell
        return pool_of(cell, self.chosen[0].rank, self.grid, self.sketch)

    @property
    def steps(self) -> int:
        """Of the longest run."""
        return max(training.steps_for(len(self.cell.split.train)) for training in self.grid)

    def values(self, name: str, of: Callable[[Evidence], Any], **rests_on: object) -> list[Any]:
        """A value of each candidate, kept; what it rests on beside the usual constants determines it too."""
        return self._kept(name, lambda: [of(self.pool.evidence(candidate)) for candidate in self.chosen], rests_on)

    def scores(self, names: Iterable[str]) -> dict[str, tuple[float, ...]]:
        """Scores of all candidates, larger is better, under their names after a warm-up where there was one."""
        return {
            warmed_name(name, self.warm_up): tuple(map(float, self.values(f"score {name}", SCORES[name].oriented)))
            for name in names
        }

    @property
    def announced(self) -> tuple[Announced, ...]:
        """What a forecast announces for each candidate, from some test examples too; kept."""
        rests_on = {"test": ANNOUNCED, "run": "AdamW", "together": TOGETHER, "off": OFF}
        found = self._kept("announced", self._announced, rests_on)
        return tuple(Announced(**each) for each in found)

    @property
    def sketched(self) -> str:
        """How the kernels are sketched and how far they are off, in words; kept. Empty for exact ones."""
        sketch, rank = self.sketch, self.chosen[0].rank
        if sketch is None:
            return ""

        def measured() -> dict[str, str]:
            off = measured_error(
                self.cell, self.pool.kernels, pool_formulas(rank), self.pool.inputs, pool_blocks(self.cell, rank)
            )
            return {"words": NOT_MEASURED if off is None else off.words}

        off = self.cell.value("error-of-the-sketch", {"rank": rank, **sketch_key(sketch)}, measured)["words"]
        return f"Kernels are sketched, {sketch.k} numbers for each block, output and example. {off}"

    def _announced(self) -> list[Any]:
        pool = announcing_pool(self.cell, self.chosen[0].rank, self.sketch, self.grid[0])
        return [asdict(announced(pool, candidate)) for candidate in self.chosen]

    def _kept(self, name: str, of: Callable[[], list[Any]], rests_on: Mapping[str, object]) -> list[Any]:
        """A value of each candidate: read, or computed and kept."""
        asked = {
            "methods": [repr(candidate.tuning) for candidate in self.chosen],
            "grid": [repr(point) for point in self.grid],
            **sketch_key(self.sketch),
        }
        name = warmed_name(name, self.warm_up)
        file = f"{name.replace(',', '').replace(' ', '-')}-{identity_hash(asked)[:12]}"
        rows = len(self.cell.split.train) * self.cell.outputs.n_outputs
        warm_up = {"warm_up": repr(warm_up_training(self.warm_up))} if self.warm_up else {}
        key = {**asked, **determinants(rows), **warm_up, **rests_on, "name": name}
        return self.cell.value(file, key, lambda: {"values": of()})["values"]
