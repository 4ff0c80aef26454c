"""Which tasks show kernel behaviour: the marks of Malladi et al. 2023, Table 1, from the measures of other tables.

Means over seeds are tested. A setting is one k and one optimiser (Table 4): K(SGD) beside SGD-FT, K(A-SignGD) beside
Adam-FT. Linearization and Fixed Features are read at the largest k, as in Figure 2; see `analysis.kernel_behaviour` for
what the paper's own marks do not follow from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from foretune.analysis.kernel_behaviour import (
    AnalogTest,
    Answer,
    FixedFeatures,
    KernelBehaviour,
    LinearizationTest,
)
from foretune.experiment.experiment import Experiment
from foretune.page import Cell, Figure, Quantity, Table
from foretune.papers.malladi.findings import LIMITS
from foretune.papers.malladi.measures import (
    ADAM_FT,
    K_A_SIGNGD,
    K_SGD,
    MEASURED,
    SGD_FT,
    AdamTuned,
    method_scores,
)
from foretune.papers.malladi.scores import PAPER, Scores, measured_scores, score_figure, title
from foretune.papers.printed import printed_figures
from foretune.papers.recipe import Study
from foretune.text.builtin import load_task

MARKS: Mapping[Answer, str] = {"yes": "✓", "partly": "(✓)", "no": "✗", "cannot say": "?"}
PAIRS = ((K_SGD, SGD_FT), (K_A_SIGNGD, ADAM_FT))
METHODS = tuple(method for pair in PAIRS for method in pair)
MODELS = ("0-shot", "Lin.", "FT")
DISTANCES = ("Distance", "Frobenius")


@dataclass(frozen=True)
class Verdicts:
    """The verdict on every task.

    Attributes:
        behaviours: task -> verdict.
        k: examples per label at which the properties are read.
    """

    behaviours: Mapping[str, KernelBehaviour]
    k: int

    @classmethod
    def measured(cls, study: Study) -> Verdicts:
        """The verdicts of a study."""
        settings = [
            measured_scores(
                study, k, [method.name for method in METHODS], lambda cell: method_scores(cell, study.budget, METHODS)
            )
            for k in study.ks
        ]
        largest = max(study.ks)
        properties = measured_scores(study, largest, (*MODELS, *DISTANCES), lambda cell: _properties(cell, study))
        return cls({task: task_verdict(task, settings, properties) for task in study.tasks}, largest)

    @property
    def note(self) -> str:
        """How marks are made."""
        settings = len(next(iter(self.behaviours.values())).analogs)
        return (
            f"eNTK solvable, in the metric of Table 4 (F1 for MRPC and QQP): the kernel is at most {100 * LIMITS.points:g} "
            f"points below fine-tuning in at least {100 * LIMITS.settings:g}% of {settings} settings (k by optimiser), in "
            "brackets in fewer. Linearization, in accuracy (Table 8): the linearized model recovers at "
            f"least {100 * LIMITS.share:g}% of the gain of Adam-FT at k = {self.k}. Fixed Features: the distance of K(SGD) "
            f"before and after Adam-FT is below {LIMITS.distance:g} at k = {self.k}, on at most {MEASURED} test examples. "
            "Means over seeds are tested. A question mark: fine-tuning gained nothing."
        )

    def marks(self, *, beside: bool) -> Table:
        """The table in the paper's layout, with the paper's own marks where the model is the same."""
        rows: list[tuple[Cell, ...]] = [
            ("Num. classes C", *(Quantity(len(load_task(task).labels), "d") for task in self.behaviours))
        ]
        for name, answers in self._answers().items():
            rows.append((name, *("failed" if self._failed(task) else MARKS[a] for task, a in answers.items())))
            if beside:
                printed = printed_figures(PAPER)["marks"][name]
                rows.append((f"paper: {name}", *(MARKS.get(printed.get(task), "-") for task in self.behaviours)))
        return Table(("Task", *map(title, self.behaviours)), tuple(rows))

    def numbers(self) -> Table:
        """What the marks come from."""
        first = next(iter(self.behaviours.values()))
        rows = [
            (f"{analog.setting}: kernel - tuned, points", *(
                _number(100 * (found.analogs[place].kernel - found.analogs[place].tuned), "+.1f")
                for found in self.behaviours.values()
            ))
            for place, analog in enumerate(first.analogs)
        ]  # fmt: skip
        found = self.behaviours.values()
        rows += [
            ("share of the gain, %", *(_number(100 * each.linearization.share, ".0f") for each in found)),
            ("distance of kernels", *(_number(each.fixed.distance, ".2f") for each in found)),
        ]
        return Table(("Number", *map(title, self.behaviours)), tuple(rows), "What the marks come from")

    def figure(self) -> Figure:
        """The Linearization test as in Figure 2: the pretrained, linearized and tuned model; means over seeds."""
        tests = [found.linearization for found in self.behaviours.values()]
        rows = {name: [getattr(test, of) for test in tests]
                for name, of in zip(MODELS, ("pretrained", "linear", "tuned"), strict=True)}  # fmt: skip
        heading = f"Pretrained, linearized and fine-tuned model, k = {self.k}: accuracies, means over seeds"
        return score_figure(f"linearization-k{self.k}", heading, rows, list(self.behaviours))

    @property
    def findings(self) -> tuple[str, ...]:
        """How many tasks are solved, and how many show kernel behaviour."""
        found = {
            name: [
                title(task)
                for task, answer in answers.items()
                if answer in ("yes", "partly") and not self._failed(task)
            ]
            for name, answers in self._answers().items()
        }
        return tuple(
            f"{text} {len(names)} of {len(self.behaviours)} task(s){': ' + ', '.join(names) if names else ''}."
            for text, names in (
                ("The eNTK solves (or partly solves)", found["eNTK solvable"]),
                ("Kernel behaviour shows (or partly shows) on", found["Kernel behavior"]),
            )
        )

    def _failed(self, task: str) -> bool:
        """Every run that the properties rest on failed."""
        return not math.isfinite(self.behaviours[task].linearization.tuned)

    def _answers(self) -> dict[str, dict[str, Answer]]:
        """Rows of the table."""
        held: Mapping[bool, Answer] = {True: "yes", False: "no"}
        tasks = self.behaviours.items()
        return {
            "eNTK solvable": {task: found.solvable(LIMITS.points) for task, found in tasks},
            "Linearization": {task: held[found.linear] for task, found in tasks},
            "Fixed Features": {task: held[found.features_fixed] for task, found in tasks},
            "Kernel behavior": {task: found.verdict for task, found in tasks},
        }


def _number(value: float, form: str) -> Quantity:
    return Quantity(value if math.isfinite(value) else None, form, missing="-")


def task_verdict(task: str, settings: list[Scores], properties: Scores) -> KernelBehaviour:
    """The verdict on one task from means over seeds.

    Args:
        task: name of the task.
        settings: kernels and fine-tuning, one for each k.
        properties: scores of the three models, and distances.
    """
    analogs = tuple(
        AnalogTest(scores.mean(kernel.name, task), scores.mean(tuned.name, task), f"{tuned.name}, k = {scores.k}")
        for scores in settings
        for kernel, tuned in PAIRS
    )
    distance, frobenius = (properties.mean(name, task) for name in DISTANCES)
    return KernelBehaviour(
        analogs,
        LinearizationTest(*(properties.mean(name, task) for name in MODELS)),
        FixedFeatures(distance, frobenius, blocks={}, compared=0, zeros=0),
        LIMITS,
    )


def _properties(cell: Experiment, study: Study) -> Mapping[str, float]:
    tuned = AdamTuned(cell, study.budget)
    linear, fixed = tuned.linearization(), tuned.fixed_features()
    return dict(
        zip(
            (*MODELS, *DISTANCES),
            (linear.pretrained, linear.linear, linear.tuned, fixed.distance, fixed.frobenius),
            strict=True,
        )
    )
