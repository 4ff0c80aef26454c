"""One printed table or figure of a paper as a recipe, and the study that runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment, Work, load_experiment
from foretune.experiment.folder import Beside, Place
from foretune.experiment.plan import StudyWork
from foretune.experiment.sample import FewShot, Full, Sample
from foretune.experiment.setting import PROMPT, DataSource, Question, Setting
from foretune.model.load import LanguageModel
from foretune.page import Page
from foretune.progress import Progress
from foretune.text.builtin import load_task
from foretune.text.split import SEEDS


@dataclass(frozen=True)
class Defaults:
    """What a recipe uses when nothing else is asked for.

    Attributes:
        model: the built-in model that is used instead of the paper's.
        tasks, ks, seeds: tasks, examples per label, and seeds of the paper.
        test: most test examples (LM-BFF's cap, Gao et al. 2021).
    """

    model: str
    tasks: tuple[str, ...]
    ks: tuple[int, ...] = (16, 64)
    seeds: tuple[int, ...] = SEEDS
    test: int = 2000


@dataclass(frozen=True)
class Study:
    """What is asked for.

    Attributes:
        lm: the language model.
        tasks, ks, seeds, test: see `Defaults`.
        data: a folder with one folder per task; None for the tasks' own sources.
        root: folder that keeps the experiments.
        budget: how runs are trained.
        memory: budget of kernels above the model's own memory.
        words: (label, word) pairs that answer instead of a task's own words, in tasks that have the label.
        first_piece: a word of several tokens answers with its first.
        progress: called as the work goes on.
    """

    lm: LanguageModel
    tasks: tuple[str, ...]
    ks: tuple[int, ...]
    seeds: tuple[int, ...]
    test: int
    root: Path
    data: Path | None = None
    budget: Budget = field(default_factory=Budget)
    memory: str = "2GiB"
    words: tuple[tuple[str, str], ...] = ()
    first_piece: bool = False
    progress: Progress | None = None

    def cell(self, task: str, sample: Sample | int | None, seed: int, output: str = PROMPT, **how: Any) -> Experiment:
        """The experiment on a task.

        Args:
            task: its name.
            sample: of training examples; a number is k of `FewShot`, None the whole training set.
            seed: of the sample, and of a random head.
            output: how the model is asked, see `Question.answered_by`.
            how: other fields of `Question`.

        Raises:
            UsageError, DataError, ModelError: see `load_experiment`.
        """
        setting = self.setting(task, sample, seed, output, **how)
        return load_experiment(setting, self.lm, self.place(setting, load_task(task).name), self.work)

    @property
    def work(self) -> Work:
        """How the work of a cell is done."""
        return Work(self.memory, self.progress)

    def place(self, setting: Setting, task: str) -> Place:
        """The folder of a cell.

        Args:
            setting: what is asked for.
            task: name of its task.
        """
        return Beside(self.root / setting.folder(task))

    def source(self, task: str) -> DataSource:
        """Where the rows of a task are, and its words."""
        found = load_task(task)
        words = {label: word for label, word in self.words if label in found.labels}
        if words:
            variants = {
                name: replace(prompt, words={**prompt.words, **words}) for name, prompt in found.variants.items()
            }
            found = replace(found, words={**found.words, **words}, variants=variants)
        return DataSource(found if self.data is None else self.data / found.name, task=found)

    def setting(self, task: str, sample: Sample | int | None, seed: int, output: str = PROMPT, **how: Any) -> Setting:
        """What a cell is made from."""
        chosen = FewShot(sample) if isinstance(sample, int) else sample or Full()
        if output == PROMPT:
            how["first_piece"] = how.get("first_piece", False) or self.first_piece
        elif self.lm.left_to_right:
            how.pop("pooling", None)
        return Setting(self.source(task), chosen, seed, self.test, Question.answered_by(output, **how))

    @property
    def notes(self) -> tuple[str, ...]:
        """What every page says on top."""
        shots = ", ".join(map(str, self.ks))
        return (
            f"Model {self.lm.name}; tasks {', '.join(self.tasks)}; k = {shots} examples per label for training and as many "
            f"for validation; seeds {', '.join(map(str, self.seeds))}; at most {self.test} test examples.",
            self.budget.described,
            *(
                (f"Words asked for: {', '.join(f'{label}={word}' for label, word in self.words)}.",)
                if self.words
                else ()
            ),
        )


class Recipe(ABC):
    """A table or figure of a paper.

    Attributes:
        name: name for the command line, such as `malladi-4`.
        title: what the table or figure shows.
        source: paper, and number of the table.
        defaults: settings of the paper.
        timed: seconds are what it measures, so that nothing may run beside it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    defaults: ClassVar[Defaults]
    timed: ClassVar[bool] = False

    @abstractmethod
    def page(self, study: Study) -> Page:
        """The table or figure, measured.

        Raises:
            UsageError, DataError, ModelError: see `Study.cell`; or a recipe that needs what the model does not have.
        """

    @abstractmethod
    def cells(self, study: Study) -> list[Experiment]:
        """The cells that the page is made from.

        Raises:
            UsageError, DataError, ModelError: see `Study.cell`.
        """

    def work(self, study: Study, cell: Experiment) -> StudyWork | None:
        """What is asked of a cell, as far as it is known before the work; None where the recipe does not say it."""
        return None
