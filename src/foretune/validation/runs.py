"""Real results, scores and predicted curves of every candidate on every task and seed; what is kept is not made again.

Each seed has training and validation examples of its own.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foretune.analysis.calibration import cross_entropy
from foretune.analysis.scores import predicted_classes, score
from foretune.candidates.adam import TOGETHER, PredictedRun
from foretune.candidates.announced import Announced
from foretune.candidates.candidate import PROBING, Candidate, candidates_among, parameter_sizes
from foretune.candidates.effort import Effort
from foretune.candidates.greedy import greedy_name
from foretune.candidates.pool import pool_of, pool_sketch
from foretune.candidates.rules import RULES, rate_rules
from foretune.candidates.scores import AFTER_WARM_UP, SCORES, determinants
from foretune.candidates.sketched import Features
from foretune.errors import UsageError, nearest
from foretune.experiment.experiment import Experiment, Work, load_experiment
from foretune.experiment.folder import Beside, Place
from foretune.experiment.outcome import Outcome
from foretune.experiment.sample import Sample
from foretune.experiment.setting import PROBED_HEAD, DataSource, Question, Setting
from foretune.finetune.optimisers import ProdigyOptimiser
from foretune.finetune.training import Training
from foretune.kernels.sketch import Sketch
from foretune.model.load import LanguageModel
from foretune.progress import Progress
from foretune.shapes import Float64
from foretune.text.builtin import load_task
from foretune.validation.seen import KeptEvidence, sketch_key

FEWEST = 4
"""Candidates that a ranking needs."""


@dataclass(frozen=True)
class ValidationStudy:
    """What is asked for.

    Attributes:
        lm: the language model.
        tasks, sample, seeds, test: see `Setting`.
        rank: rank of LoRA; None for full tuning.
        grid: settings of every run, with AdamW; the best point of each candidate counts.
        root: where the model's cells are kept.
        data: a folder with one folder per task; None for the tasks' own sources.
        candidates: globs on labels of candidates; None for all.
        output: what answers, see `Question.answered_by`.
        warm_up: numbers of steps; `AFTER_WARM_UP` are taken again on the kernel after each of them.
        prodigy: whether every candidate is trained by Prodigy too, which finds its own rate.
        memory: budget of kernels above the model's own memory.
        features: whether kernels are `exact`, `sketched`, or sketched where exact ones do not fit (`auto`).
        announce: whether what a forecast announces is compared too, which takes kernels with test examples.
        progress: called as the work goes on.
    """

    lm: LanguageModel
    tasks: tuple[str, ...]
    sample: Sample
    seeds: tuple[int, ...]
    test: int
    rank: int | None
    grid: tuple[Training, ...]
    root: Path
    data: Path | None = None
    candidates: tuple[str, ...] | None = None
    output: str = PROBED_HEAD
    warm_up: tuple[int, ...] = ()
    prodigy: bool = False
    memory: str = "2GiB"
    features: Features = "auto"
    announce: bool = True
    progress: Progress | None = None

    @property
    def described(self) -> dict[str, str]:
        """Label -> what is asked for, for pages."""
        method = "full tuning" if self.rank is None else f"LoRA, rank {self.rank}"
        return {
            "Model": f"{self.lm.name}, {self.output}",
            "Method": f"{method}; {len(self.grid)} learning rate(s)",
            "Tasks": ", ".join(self.tasks),
            "Sample": f"{self.sample.label}, seeds {', '.join(map(str, self.seeds))}",
        }

    def cell(self, task: str, seed: int) -> Experiment:
        """The cell of a task and a seed.

        Raises:
            UsageError, DataError, ModelError: see `load_experiment`.
        """
        setting, place = self.asked(task, seed)
        return load_experiment(setting, self.lm, place, self.work)

    def sketch(self, cell: Experiment) -> Sketch | None:
        """How the kernels of a cell are sketched; None where they are exact."""
        return pool_sketch(cell, self.rank, self.features)

    def asked(self, task: str, seed: int) -> tuple[Setting, Place]:
        """What is asked of a task and a seed, and where the cell is kept."""
        source = DataSource(task if self.data is None else self.data / load_task(task).name, task=task)
        setting = Setting(source, self.sample, seed, self.test, Question.answered_by(self.output))
        return setting, Beside(self.root / setting.folder(load_task(task).name))

    @property
    def prodigy_grid(self) -> tuple[Training, ...]:
        """Settings of Prodigy's run: those of the others but for the optimiser, without a rate to choose."""
        return (replace(self.grid[0], optimiser=ProdigyOptimiser()),)

    @property
    def grids(self) -> tuple[tuple[Training, ...], ...]:
        """The grids that every candidate is trained on."""
        return (self.grid, *([self.prodigy_grid] if self.prodigy else []))

    @property
    def work(self) -> Work:
        """How the work of a cell is done."""
        return Work(self.memory, self.progress)


@dataclass(frozen=True)
class Measured:
    """The candidates on one task and seed, all in the same order.

    Attributes:
        task, seed: name of the task, and the seed.
        metric: `accuracy`, `f1` or `matthews`.
        start_loss, start_score: test loss and score before training: of linear probing, where a head starts from it.
        names: labels of the candidates.
        outcomes: what real fine-tuning of each candidate reached.
        scores: name of a score, or of a score after a warm-up (`warmed_name`) -> its values.
        predicted: the simulated runs of the grid, from the kernel before training.
        reach: the largest rate of Adam that a forecast would name, of every candidate (`candidates.adam.reach`).
        warm_up_seconds: steps of a warm-up -> what it cost.
        epoch: steps in which a run sees every training example once; 0 where nobody knows.
        rule_rates: name of a rule for learning rates (`candidates.rules`) -> its rate for every candidate.
        prodigy: what Prodigy reached with every candidate, in one run each; empty where it was not asked for.
        announced: what a forecast announces for every candidate.
        sketched: how the kernels are sketched and how far they are off, in words; empty for exact ones.
    """

    task: str
    seed: int
    metric: str
    start_loss: float
    start_score: float
    names: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    scores: Mapping[str, tuple[float, ...]]
    predicted: tuple[tuple[PredictedRun, ...], ...]
    reach: tuple[float, ...]
    warm_up_seconds: Mapping[int, float] = field(default_factory=dict)
    epoch: int = 0
    rule_rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    prodigy: tuple[Outcome, ...] = ()
    announced: tuple[Announced, ...] = ()
    sketched: str = ""

    @property
    def losses(self) -> Float64[np.ndarray, " k"]:
        """Test losses; infinite where every run failed."""
        return np.array([outcome.test_loss if outcome.failure is None else np.inf for outcome in self.outcomes])

    @property
    def validation_losses(self) -> Float64[np.ndarray, " k"]:
        """Lowest validation losses with the sign turned, as scores are; where every run failed, the worst."""
        return np.array([-o.validation_loss if o.failure is None else -np.inf for o in self.outcomes])

    @property
    def test_scores(self) -> Float64[np.ndarray, " k"]:
        """Test scores; zero where every run failed."""
        return np.array([outcome.test_score if outcome.failure is None else 0.0 for outcome in self.outcomes])


def candidates_of(cell: Experiment, rank: int | None, sketch: Sketch | None = None) -> list[Candidate]:
    """The forecast's candidates of one method on a cell, linear probing left out; kept."""
    kept = cell.value(
        *_candidates_place(cell, rank, sketch),
        lambda: {"candidates": [asdict(item) for item in pool_of(cell, rank, sketch=sketch).candidates]},
    )
    return _compared(kept, rank)


def kept_candidates(cell: Experiment, rank: int | None, sketch: Sketch | None = None) -> list[Candidate] | None:
    """The candidates that `candidates_of` kept on a cell before; None where it did not."""
    kept = cell.kept(*_candidates_place(cell, rank, sketch))
    return None if kept is None else _compared(kept, rank)


def _candidates_place(cell: Experiment, rank: int | None, sketch: Sketch | None) -> tuple[str, dict[str, object]]:
    """The name and the key of the candidates that are kept."""
    key = {"rank": rank, **determinants(len(cell.split.train) * cell.outputs.n_outputs), **sketch_key(sketch)}
    method = "full" if rank is None else f"r{rank}"
    return f"candidates-{method}{'' if sketch is None else '-sketched'}", key


def _compared(kept: Mapping[str, Any], rank: int | None) -> list[Candidate]:
    """The candidates of one method among those that were kept, linear probing left out."""
    every = [
        Candidate(**{**item, "blocks": tuple(item["blocks"]), "head": tuple(item["head"])})
        for item in kept["candidates"]
    ]
    return [item for item in every if item.rank == rank and item.kind != PROBING]


def common_labels(found: Sequence[Sequence[Candidate]]) -> list[str]:
    """The labels that every cell has, in the order of the first: the greedy search can end early on some samples."""
    return [item.label for item in found[0] if all(any(item.label == other.label for other in of) for of in found)]


def matching_labels(labels: Sequence[str], globs: Sequence[str] | None) -> set[str]:
    """The labels that match one of some globs, all without any."""
    return {label for glob in globs or ("*",) for label in fnmatch.filter(labels, glob)}


def chosen_labels(labels: Sequence[str], globs: Sequence[str] | None) -> list[str]:
    """The labels that match one of some globs, all without any.

    Raises:
        UsageError: a glob matches none, or fewer than four are left.
    """
    _refuse_unmatched(labels, globs)
    wanted = matching_labels(labels, globs)
    if len(wanted) < FEWEST:
        raise UsageError(
            f"{len(wanted)} candidates ({', '.join(sorted(wanted))}) are too few for a ranking; expected at least {FEWEST} "
            f"of {', '.join(labels)}."
        )
    return [label for label in labels if label in wanted]


def named_of(cell: Experiment, rank: int | None) -> list[Candidate]:
    """The candidates that have names before any kernel, linear probing left out."""
    kinds, sizes = cell.outputs.kinds(), parameter_sizes(cell.outputs)
    linear = [name for name, kind in kinds.items() if kind == "linear"]
    head = tuple(name for name in sizes.head if name in kinds)
    found = candidates_among({rank: list(kinds) if rank is None else linear}, linear, head, sizes)
    return [item for item in found if item.kind != PROBING]


def refuse_unmatched(cell: Experiment, study: ValidationStudy) -> None:
    """Before any kernel: each glob matches a candidate that has a name, or one that the greedy search could add.

    Raises:
        UsageError: one matches none.
    """
    greedy = [greedy_name(size) for size in range(1, max(Effort().greedy_sizes) + 1)]
    _refuse_unmatched([item.label for item in named_of(cell, study.rank)], study.candidates, greedy)


def _refuse_unmatched(labels: Sequence[str], globs: Sequence[str] | None, possible: Sequence[str] = ()) -> None:
    for glob in globs or ():
        if not fnmatch.filter((*labels, *possible), glob):
            raise UsageError(f"No candidate matches {glob!r}; there are {', '.join(labels)}.{nearest(glob, labels)}")


def measured_candidates(study: ValidationStudy) -> list[Measured]:
    """Everything, seed by seed and task by task.

    Raises:
        UsageError, DataError, ModelError: wrong names, too few candidates, or data and a model that do not fit.
        NonFiniteError: a kernel with undefined numbers; runs that fail are results.
    """
    if not study.tasks or not study.seeds or not study.grid:
        raise UsageError("A validation needs at least one task, one seed and one learning rate.")
    cells = [study.cell(task, seed) for seed in study.seeds for task in study.tasks]
    refuse_unmatched(cells[0], study)
    known = [candidates_of(cell, study.rank, study.sketch(cell)) for cell in cells]
    chosen = chosen_candidates(known, study.candidates)
    return [measured_cell(study, cell, items) for cell, items in zip(cells, chosen, strict=True)]


def chosen_candidates(known: Sequence[Sequence[Candidate]], globs: Sequence[str] | None) -> list[list[Candidate]]:
    """Of each cell's candidates those that every cell has and that match one of some globs, in one order.

    Raises:
        UsageError: see `chosen_labels`.
    """
    labels = chosen_labels(common_labels(known), globs)
    by_label = ({item.label: item for item in found} for found in known)
    return [[found[label] for label in labels] for found in by_label]


def measured_cell(study: ValidationStudy, cell: Experiment, chosen: Sequence[Candidate]) -> Measured:
    """Everything of one task and seed; what is kept of it is read."""
    # before the runs, which take far longer: a model that cannot be warmed up is refused at once
    seconds = {steps: cell.warm_up_seconds(steps) for steps in study.warm_up}
    outcomes, prodigy = [], []
    for number, candidate in enumerate(chosen):
        if study.progress is not None:
            study.progress(f"{cell.task.name}, seed {cell.setting.seed}: candidates", number, len(chosen))
        outcomes.append(cell.outcome(candidate.tuning, study.grid))
        if study.prodigy:
            prodigy.append(cell.outcome(candidate.tuning, study.prodigy_grid))
    start = cell.value("start", {}, lambda: _start(cell))
    kept = KeptEvidence(cell, chosen, study.grid, sketch=study.sketch(cell))
    seen = _before_training(kept)
    n, after = len(cell.split.train), {}
    for steps in study.warm_up:
        after |= replace(kept, warm_up=steps).scores(AFTER_WARM_UP)
    return Measured(
        task=cell.task.name,
        seed=cell.setting.seed,
        metric=cell.task.metric,
        start_loss=start["loss"],
        start_score=start["score"],
        names=tuple(candidate.label for candidate in chosen),
        outcomes=tuple(outcomes),
        **{**seen, "scores": {**seen["scores"], **after}},
        warm_up_seconds=seconds,
        epoch=max(math.ceil(n / training.batch_of(n)) for training in study.grid),
        prodigy=tuple(prodigy),
        announced=replace(kept).announced if study.announce else (),
        sketched=kept.sketched,
    )


def _before_training(kept: KeptEvidence) -> dict[str, Any]:
    """Scores, curves, reach and rates by rule of every candidate; the kernels that they are from are not held longer."""
    seen, rules = replace(kept), rate_rules(kept.chosen[0].rank)
    scores = seen.scores(SCORES)
    curves = seen.values("predicted curves", lambda item: [asdict(run) for run in item.adam])
    reach = seen.values("reach of Adam", lambda item: item.reach(seen.steps), together=TOGETHER)
    rates = seen.values(
        "rates by rule", lambda item: {name: of(item, seen.steps) for name, of in rules.items()}, rules=RULES
    )
    return {
        "scores": scores,
        "predicted": tuple(tuple(_run(run) for run in runs) for runs in curves),
        "reach": tuple(map(float, reach)),
        "rule_rates": {name: tuple(float(told[name]) for told in rates) for name in rules},
    }


def _run(found: Mapping[str, Any]) -> PredictedRun:
    return PredictedRun(found["learning_rate"], tuple(found["steps"]), tuple(found["validation_losses"]))


def _start(cell: Experiment) -> dict[str, float]:
    """Loss and score of the test examples before training."""
    y, f0 = cell.labels("test"), cell.inputs.f0[cell.inputs.n_train + cell.inputs.n_validation :]
    return {"loss": cross_entropy(f0, y), "score": score(y, predicted_classes(f0), cell.task.metric)}
