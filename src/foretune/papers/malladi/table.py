"""What the printed tables of Malladi et al. 2023 have in common: one number for every row, task and seed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import StudyWork
from foretune.kernels.signs import THRESHOLD
from foretune.page import Figure, Page, Table
from foretune.papers.malladi.measures import KernelMethod, TunedMethod, method_scores, method_work, published
from foretune.papers.malladi.scores import (
    PrintedLayout,
    Scores,
    WayToAsk,
    difference_notes,
    measured_scores,
    own_model,
    words_in_pieces,
)
from foretune.papers.recipe import Recipe, Study

SOLVERS = (
    "Kernel methods: K(SGD), K(SignGD) and K(LoRA) minimise the regularised logistic loss, as Appendix A.3 says (the "
    "published code solves least squares). K(A-SignGD) solves the asymmetric system. Hyperparameters are from the grids "
    "of Table 3, chosen on validation. Signs of K(SignGD) and K(A-SignGD): an entry of a gradient counts as zero below "
    f"{THRESHOLD:g} of its size without cancellation. This is against rounding noise; Definition 3.4 has no such "
    "threshold. It moves these kernels by about 0.1% on MiniLM, and by up to 1% on tiny models."
)
TRAINING = (
    "Fine-tuning: the learning rate falls linearly to zero, gradients are clipped at a norm of 1, as in the published "
    "code; the best checkpoint of the best point of a grid, both on validation."
)
PERCENT = "Accuracy (another metric where a column says so) in percent, mean and standard deviation over seeds."
ACCURACY = "Accuracy in percent, of every task, as the paper prints it; mean and standard deviation over seeds."


class PrintedTable(Recipe):
    """A table with one number for every row, task and seed, one table for each k.

    Attributes:
        layout: how numbers are written.
        rows: names of what is measured.
        asked: ways to ask the model.
        remarks: notes on top of the page, besides what differs from the paper.
        models: the paper's, besides RoBERTa-base.
    """

    layout: ClassVar[PrintedLayout]
    rows: ClassVar[tuple[str, ...]]
    asked: ClassVar[tuple[WayToAsk, ...]] = (WayToAsk(),)
    remarks: ClassVar[tuple[str, ...]] = (PERCENT,)
    models: ClassVar[tuple[str, ...]] = ()

    def page(self, study: Study) -> Page:
        """The table, measured.

        Raises:
            UsageError, DataError, ModelError: see `Study.cell`.
        """
        pieces = words_in_pieces(study, self.asked)
        study = replace(study, budget=published(study.budget))
        found = [
            measured_scores(study, k, self.rows, lambda cell: self.measure(cell, study), self.asked)
            for k in self.ks(study)
        ]
        findings = tuple(sentence for scores in found for sentence in self.findings(scores))
        figures = tuple(figure for scores in found for figure in self.figures(scores))
        notes = (*self.notes(study), *pieces)
        return Page(f"{self.source}: {self.title}", notes, self.tables(study, found), figures, findings)

    def cells(self, study: Study) -> list[Experiment]:
        """As `Recipe`."""
        return [
            study.cell(task, k, seed, **each.how)
            for k in self.ks(study)
            for task in study.tasks
            for each in self.asked
            if each.known(task)
            for seed in study.seeds
        ]

    def notes(self, study: Study) -> tuple[str, ...]:
        """What stands on top."""
        return (*difference_notes(study, self.defaults, self.source, *self.models), *self.remarks)

    def ks(self, study: Study) -> tuple[int, ...]:
        """Numbers of examples that have a table."""
        return study.ks

    def tables(self, study: Study, found: list[Scores]) -> tuple[Table, ...]:
        """The tables, drawn."""
        return tuple(self.layout.drawn(scores, f"k = {scores.k}", beside=own_model(study)) for scores in found)

    def figures(self, scores: Scores) -> tuple[Figure, ...]:
        """What the paper draws of the numbers at one k."""
        return ()

    @abstractmethod
    def measure(self, cell: Experiment, study: Study) -> Mapping[str, float]:
        """The numbers of one cell by row."""

    @abstractmethod
    def findings(self, scores: Scores) -> tuple[str, ...]:
        """What the numbers at one k say."""


class MethodTable(PrintedTable):
    """A table whose rows are fine-tuning and kernel methods.

    Attributes:
        methods: the methods, one for each row.
    """

    methods: ClassVar[tuple[TunedMethod | KernelMethod, ...]]
    remarks: ClassVar[tuple[str, ...]] = (PERCENT, SOLVERS, TRAINING)

    def __init_subclass__(cls) -> None:
        """The names of the rows are those of the methods."""
        cls.rows = tuple(method.name for method in cls.methods)

    def measure(self, cell: Experiment, study: Study) -> Mapping[str, float]:
        """The test scores of all methods."""
        return method_scores(cell, study.budget, self.methods)

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """As `Recipe`."""
        return method_work(cell, published(study.budget), self.methods)
