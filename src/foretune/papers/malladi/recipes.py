"""The printed tables of Malladi et al. 2023, A Kernel-Based View of Language Model Fine-Tuning, as recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from foretune.experiment.experiment import Experiment
from foretune.experiment.plan import StudyWork
from foretune.experiment.sample import FewShot
from foretune.experiment.setting import PROBED_HEAD
from foretune.page import Figure, Page, Table
from foretune.papers.malladi.findings import apart, moved_little, nearest_to_solved, reached, recovered
from foretune.papers.malladi.measures import (
    ADAM_FT,
    K_A_SIGNGD,
    K_LORA,
    K_SGD,
    K_SIGNGD,
    MEASURED,
    SGD_FT,
    SGD_LORA_FT,
    AdamTuned,
    method_work,
    pretrained_derivative,
    published,
)
from foretune.papers.malladi.scores import (
    PrintedLayout,
    Scores,
    WayToAsk,
    difference_notes,
    own_model,
    score_figure,
    words_in_pieces,
)
from foretune.papers.malladi.table import ACCURACY, PERCENT, SOLVERS, TRAINING, MethodTable, PrintedTable
from foretune.papers.malladi.verdict import DISTANCES, METHODS, MODELS, Verdicts
from foretune.papers.recipe import Defaults, Recipe, Study

STAND_IN = "smollm2"
"""The built-in model that answers with words, instead of RoBERTa-base."""

SIX = ("sst2", "mr", "cr", "qnli", "rte", "qqp")
FOURTEEN = ("sst2", "sst5", "mr", "cr", "mpqa", "subj", "trec", "ag_news", "mnli", "snli", "qnli", "rte", "mrpc", "qqp")
CAP = 1000
"""Test examples, Appendix A.1."""

WIDE = 0.10


class Table4(MethodTable):
    """Fine-tuning beside the kernel of its optimiser."""

    name = "malladi-4"
    title = "fine-tuning and kernels by optimiser"
    source = "Malladi et al. 2023, Table 4"
    defaults = Defaults(STAND_IN, FOURTEEN, test=CAP)
    layout = PrintedLayout(4)
    methods = (SGD_FT, K_SGD, ADAM_FT, K_SIGNGD, K_A_SIGNGD)

    def findings(self, scores: Scores) -> tuple[str, ...]:
        """The kernel beside fine-tuning, and Adam beside SGD."""
        pairs = ((K_SGD.name, SGD_FT.name), (K_SIGNGD.name, ADAM_FT.name), (K_A_SIGNGD.name, ADAM_FT.name))
        close = tuple(sentence for pair in pairs for sentence in reached(scores, *pair))
        wide = tuple(sentence for pair in (pairs[0], pairs[2]) for sentence in reached(scores, *pair, WIDE))
        return (*close, *wide, *apart(scores, SGD_FT.name, ADAM_FT.name))


class Table5(PrintedTable):
    """The output derivative before training."""

    name = "malladi-5"
    title = "mean output derivative |chi| of the pretrained model"
    source = "Malladi et al. 2023, Table 5"
    defaults = Defaults(STAND_IN, ("sst2", "mr", "cr", "mpqa", "subj", "qnli", "rte", "mrpc", "qqp"), test=CAP)
    layout = PrintedLayout(5, 1.0, 2, "Model", by_metric=False)
    rows = ("chi",)
    models = ("RoBERTa-large",)
    remarks = (
        "Cross-entropy, prompts; the mean runs over outputs and over the training, validation and test examples of the "
        "largest k (the whole dataset in the paper).",
    )

    def ks(self, study: Study) -> tuple[int, ...]:
        """The largest alone: nothing is trained."""
        return (max(study.ks),)

    def notes(self, study: Study) -> tuple[str, ...]:
        """As elsewhere; the paper's figures are of whole datasets, with no k and no seeds."""
        same = replace(self.defaults, ks=study.ks, seeds=study.seeds, test=study.test)
        return (*difference_notes(study, same, self.source, *self.models), *self.remarks)

    def tables(self, study: Study, found: list[Scores]) -> tuple[Table, ...]:
        """One row for the model, and those of the paper where it is one of its two."""
        ours = Scores({Path(study.lm.name).name: found[0].values["chi"]}, found[0].k)
        drawn = self.layout.drawn(ours, "", beside=False)
        printed = self.layout.printed(0) if own_model(study, *self.models) else {}
        rows = tuple(
            (f"paper: {model}", *(figures.get(task, "-") for task in study.tasks)) for model, figures in printed.items()
        )
        return (replace(drawn, rows=drawn.rows + rows),)

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """One forward pass."""
        return StudyWork()

    def measure(self, cell: Experiment, study: Study) -> Mapping[str, float]:
        """Mean |chi|."""
        return {"chi": pretrained_derivative(cell).mean_absolute}

    def findings(self, scores: Scores) -> tuple[str, ...]:
        """The nearest and the farthest task."""
        return nearest_to_solved(scores, "chi")


class Table6(PrintedTable):
    """The kernel before and after fine-tuning."""

    name = "malladi-6"
    title = "relative distance of K(SGD) before and after Adam-FT"
    source = "Malladi et al. 2023, Table 6"
    defaults = Defaults(STAND_IN, FOURTEEN, test=CAP)
    layout = PrintedLayout(6, 1.0, 2, "Measure", by_metric=False)
    rows = DISTANCES
    remarks = (
        f"The kernels of the first {MEASURED} test examples at most; Distance is the mean of |K_after - K_before| / "
        "|K_before| over entries, which small entries dominate; Frobenius, ||K_after - K_before|| / ||K_before||, is not "
        "in the paper.",
        TRAINING,
    )

    def tables(self, study: Study, found: list[Scores]) -> tuple[Table, ...]:
        """One table with a row for each k, as in the paper."""
        drawn = super().tables(study, found)
        rows = tuple(
            (f"k = {scores.k}: {row[0]}", *row[1:])
            for scores, table in zip(found, drawn, strict=True)
            for row in table.rows
        )
        return (replace(drawn[0], rows=rows, caption=""),)

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """The runs, and the kernels before and after."""
        tuned = AdamTuned(cell, published(study.budget))
        return StudyWork(tuned.grids, tuned.missing_kernels)

    def measure(self, cell: Experiment, study: Study) -> Mapping[str, float]:
        """The relative and the Frobenius distance of the kernels."""
        found = AdamTuned(cell, study.budget).fixed_features()
        return {"Distance": found.distance, "Frobenius": found.frobenius}

    def findings(self, scores: Scores) -> tuple[str, ...]:
        """Where features stay fixed."""
        return moved_little(scores, "Distance")


class Table7(MethodTable):
    """Fine-tuning with a prompt beside standard fine-tuning."""

    name = "malladi-7"
    title = "prompt-based and standard fine-tuning"
    source = "Malladi et al. 2023, Table 7 (Figure 1)"
    defaults = Defaults(STAND_IN, SIX, (16, 64, 512), test=CAP)
    layout = PrintedLayout(7)
    methods = (ADAM_FT, SGD_FT, K_SGD)
    asked = (WayToAsk("Prompt"), WayToAsk("Standard", PROBED_HEAD, pooling="cls"))
    remarks = (
        PERCENT,
        SOLVERS,
        TRAINING,
        "Standard: a classification head that starts from the linear-probing solution, on the features of the first token, "
        "[CLS] (of a causal model the last token's).",
    )

    def figures(self, scores: Scores) -> tuple[Figure, ...]:
        """Figure 1: SGD-FT and its kernel, with a prompt and without; medians over seeds."""
        rows = [each.row(method.name) for each in self.asked for method in (SGD_FT, K_SGD)]
        medians = {row: [scores.median(row, task) for task in scores.tasks] for row in rows}
        heading = f"SGD-FT and K(SGD) with a prompt and without, k = {scores.k}: medians over seeds"
        return (score_figure(f"prompts-k{scores.k}", heading, medians, scores.tasks),)

    def findings(self, scores: Scores) -> tuple[str, ...]:
        """The kernel's gap with a prompt and without."""
        return _by_prompt(scores, self.asked)


class Table8(PrintedTable):
    """The linearized model between the pretrained and the tuned one."""

    name = "malladi-8"
    title = "pretrained, linearized and fine-tuned model"
    source = "Malladi et al. 2023, Table 8 (Figure 2)"
    defaults = Defaults(STAND_IN, FOURTEEN, test=CAP)
    layout = PrintedLayout(8, corner="Model", by_metric=False)
    rows = MODELS
    remarks = (
        ACCURACY,
        TRAINING,
        "FT is the best Adam-FT run; Lin. is the first-order Taylor expansion at its parameters.",
    )

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """The runs."""
        return StudyWork(AdamTuned(cell, published(study.budget)).grids)

    def measure(self, cell: Experiment, study: Study) -> Mapping[str, float]:
        """The three scores."""
        found = AdamTuned(cell, study.budget).linearization()
        return dict(zip(self.rows, (found.pretrained, found.linear, found.tuned), strict=True))

    def figures(self, scores: Scores) -> tuple[Figure, ...]:
        """Figure 2: the three models beside each other; medians over seeds."""
        medians = {row: [scores.median(row, task) for task in scores.tasks] for row in self.rows}
        heading = f"Pretrained, linearized and fine-tuned model, k = {scores.k}: medians over seeds"
        return (score_figure(f"linearization-k{scores.k}", heading, medians, scores.tasks),)

    def findings(self, scores: Scores) -> tuple[str, ...]:
        """Where the linearized model recovers the gain."""
        return recovered(scores, *self.rows)


class Table9(MethodTable):
    """Other prompts and label words."""

    name = "malladi-9"
    title = "robustness to the choice of prompt"
    source = "Malladi et al. 2023, Table 9"
    defaults = Defaults(STAND_IN, SIX, (16,), test=CAP)
    layout = PrintedLayout(9)
    methods = (ADAM_FT, SGD_FT, K_SGD)
    asked = (WayToAsk("Manual"), WayToAsk("Search", prompt="search", first_piece=True), WayToAsk("Null", prompt="null"))
    remarks = (PERCENT, SOLVERS, TRAINING, "A dash: the task has no such prompt.")

    def findings(self, scores: Scores) -> tuple[str, ...]:
        """The kernel's gap for each prompt."""
        return _by_prompt(scores, self.asked)


class Table11(MethodTable):
    """Low-rank adapters and their kernel."""

    name = "malladi-11"
    title = "SGD and its kernel with and without LoRA"
    source = "Malladi et al. 2023, Table 11"
    defaults = Defaults(STAND_IN, SIX, test=CAP)
    layout = PrintedLayout(11)
    methods = (SGD_FT, SGD_LORA_FT, K_SGD, K_LORA)
    remarks = (
        PERCENT,
        SOLVERS,
        TRAINING,
        "Adapters of rank 8 and alpha 16 on the layers that make queries and values (where one layer makes keys too, on "
        "all of it); B = 0, A random. As in the published code, which freezes the transformer body alone, the head of the "
        "language model is trained and stands in K(LoRA) too; an output layer that is tied to the embeddings is frozen.",
    )

    def findings(self, scores: Scores) -> tuple[str, ...]:
        """Adapters beside full fine-tuning, for training, for kernels, and one against the other."""
        return (
            *apart(scores, SGD_LORA_FT.name, SGD_FT.name),
            *apart(scores, K_LORA.name, K_SGD.name),
            *reached(scores, K_SGD.name, SGD_FT.name),
            *reached(scores, K_LORA.name, SGD_LORA_FT.name),
        )


def _by_prompt(scores: Scores, asked: tuple[WayToAsk, ...]) -> tuple[str, ...]:
    return tuple(
        sentence for each in asked for sentence in reached(scores, each.row(K_SGD.name), each.row(SGD_FT.name))
    )


class Table1(Recipe):
    """Which tasks show kernel behaviour."""

    name = "malladi-1"
    title = "kernel behaviour by task"
    source = "Malladi et al. 2023, Table 1"
    defaults = Defaults(STAND_IN, FOURTEEN, test=CAP)

    def page(self, study: Study) -> Page:
        """The marks, and the numbers that they come from.

        Raises:
            UsageError, DataError, ModelError: see `Study.cell`.
        """
        pieces = words_in_pieces(study)
        study = replace(study, budget=published(study.budget))
        verdicts = Verdicts.measured(study)
        notes = (*difference_notes(study, self.defaults, self.source), verdicts.note, SOLVERS, TRAINING, *pieces)
        tables = (verdicts.marks(beside=own_model(study)), verdicts.numbers())
        return Page(f"{self.source}: {self.title}", notes, tables, (verdicts.figure(),), verdicts.findings)

    def cells(self, study: Study) -> list[Experiment]:
        """As `Recipe`."""
        return [study.cell(task, k, seed) for k in study.ks for task in study.tasks for seed in study.seeds]

    def work(self, study: Study, cell: Experiment) -> StudyWork:
        """Kernels and runs at every k, and at the largest the kernels before and after fine-tuning."""
        budget = published(study.budget)
        settings = method_work(cell, budget, METHODS)
        if cell.setting.sample != FewShot(max(study.ks)):
            return settings
        return replace(settings, kernels=[*settings.kernels, *AdamTuned(cell, budget).missing_kernels])


MALLADI_RECIPES: tuple[Recipe, ...] = (
    Table1(), Table4(), Table5(), Table6(), Table7(), Table8(), Table9(), Table11(),
)  # fmt: skip
