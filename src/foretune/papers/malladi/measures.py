"""What the tables of Malladi et al. 2023 measure in one cell; every number is kept there (`Experiment.value`).

Fine-tuning is the best run of a grid (Table 3), with the schedule and the clipping of the published code. A kernel method
is a kernel with a solver (`behaviour.analog`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from foretune.analysis.kernel_behaviour import LINEARIZED_BY, FixedFeatures, LinearizationTest
from foretune.analysis.output_derivative import OutputDerivative, output_derivative
from foretune.analysis.scores import predicted_classes, score
from foretune.analysis.solvers import named_solver
from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment, run_key
from foretune.experiment.plan import KernelWork, StudyWork
from foretune.finetune.methods import FullTuning, LoRAAndHead, Method
from foretune.finetune.run import Run
from foretune.finetune.training import Training
from foretune.kernels.compute import block_kernels
from foretune.kernels.formula import Formula
from foretune.kernels.job import joint_job, separate_job
from foretune.kernels.memory_plan import memory_bytes
from foretune.kernels.sgd import SGD
from foretune.kernels.signs import AsymmetricSignGD, SignGD
from foretune.regime.analog import analog_solution, analog_solver, orientations
from foretune.regime.linearization import linearization
from foretune.regime.measure import change_of_kernel
from foretune.store.kept import identity_hash

QUERY_VALUE = (
    r".*\.(query|value|query_proj|value_proj|q_proj|v_proj|q_lin|v_lin|q|v|c_attn|query_key_value|qkv_proj|Wqkv)"
)
"""Names of the layers that make queries and values; where one layer makes keys too, it is adapted whole."""

_HEAD = "sgd of the head"

MEASURED = 64
"""Most test examples whose kernels are compared before and after fine-tuning."""


@dataclass(frozen=True)
class TunedMethod:
    """Fine-tuning as a row of a table.

    Attributes:
        name: the row's name in the paper.
        method: what is trained.
        optimiser: `sgd` or `adamw`.
    """

    name: str
    method: Method
    optimiser: str

    def score(self, cell: Experiment, budget: Budget) -> float:
        """The test score of the best run; not a number where every run failed."""
        return cell.outcome(self.method, budget.grid(self.method, self.optimiser)).test_score


@dataclass(frozen=True)
class KernelMethod:
    """A kernel method as a row of a table.

    Attributes:
        name: the row's name in the paper.
        formula: formula of the method's kernel.
    """

    name: str
    formula: Formula

    @property
    def formulas(self) -> tuple[Formula, ...]:
        """The kernels that it needs."""
        return orientations(self.formula)

    def kernels(self, totals: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What its solver is given, from the sums over blocks by label."""
        return [totals[formula.label] for formula in self.formulas]

    @property
    def key(self) -> dict[str, object]:
        """What determines its score in a cell."""
        solver = named_solver(analog_solver(self.formula))
        grid = {name: [repr(value) for value in values] for name, values in solver.default_grid.items()}
        return {"formula": repr(self.formula), "solver": repr(solver), "grid": grid}


@dataclass(frozen=True)
class AdapterAnalog(KernelMethod):
    """The kernel of adapters that are trained together with what stands behind the transformer body."""

    @property
    def formulas(self) -> tuple[Formula, ...]:
        """The adapters' kernel, and the SGD kernel, for the blocks of the head."""
        return self.formula, SGD()

    def kernels(self, totals: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The sum of both."""
        return [totals[self.formula.label] + totals[_HEAD]]

    @property
    def key(self) -> dict[str, object]:
        """What determines its score in a cell."""
        return {**super().key, "head": True}


_ADAPTERS = LoRAAndHead(targets=QUERY_VALUE)
SGD_FT = TunedMethod("SGD-FT", FullTuning(), "sgd")
ADAM_FT = TunedMethod("Adam-FT", FullTuning(), "adamw")
SGD_LORA_FT = TunedMethod("SGD-LoRA FT", _ADAPTERS, "sgd")
K_SGD = KernelMethod("K(SGD)", SGD())
K_SIGNGD = KernelMethod("K(SignGD)", SignGD())
K_A_SIGNGD = KernelMethod("K(A-SignGD)", AsymmetricSignGD())
K_LORA = AdapterAnalog("K(LoRA)", _ADAPTERS.formula)


def method_scores(cell: Experiment, budget: Budget, methods: Sequence[TunedMethod | KernelMethod]) -> dict[str, float]:
    """The test scores of some rows, between 0 and 1; kernels come first, all from one pass over the data."""
    analogs = analog_scores(cell, [method for method in methods if isinstance(method, KernelMethod)])
    tuned = {method.name: method.score(cell, budget) for method in methods if isinstance(method, TunedMethod)}
    return {**analogs, **tuned}


def _analog_place(analog: KernelMethod) -> tuple[str, dict[str, object]]:
    """The name and the key of a kernel method's score that is kept."""
    return f"solved-{analog.formula.label}", analog.key


def method_work(cell: Experiment, budget: Budget, methods: Sequence[TunedMethod | KernelMethod]) -> StudyWork:
    """What `method_scores` asks of a cell; kernels whose scores are kept are not computed again."""
    analogs = [each for each in methods if isinstance(each, KernelMethod) and cell.kept(*_analog_place(each)) is None]
    tuned = [method for method in methods if isinstance(method, TunedMethod)]
    grids = [(method.method, budget.grid(method.method, method.optimiser)) for method in tuned]
    formulas = list(dict.fromkeys(formula for each in analogs for formula in each.formulas))
    if not formulas:
        return StudyWork(grids)
    return StudyWork(grids, [KernelWork(joint_job(cell.outputs, *cell.examples), _passes(cell, formulas))])


def analog_scores(cell: Experiment, analogs: Sequence[KernelMethod]) -> dict[str, float]:
    """The test scores of kernel methods; their kernels share a pass over the data as far as the memory goes."""
    totals: dict[str, np.ndarray] = {}
    formulas = list(dict.fromkeys(formula for each in analogs for formula in each.formulas))
    head = set(cell.outputs.behind_body())

    def solution(analog: KernelMethod) -> Mapping[str, object]:
        if not totals:
            for together in _passes(cell, formulas):
                for label, kernel in cell.kernels(together).items():
                    totals[label] = kernel.total()
                    if label == SGD().label:
                        totals[_HEAD] = kernel.array[[name in head for name in kernel.names]].sum(0)
        return _solution(cell, analog, analog.kernels(totals))

    return {
        analog.name: cell.value(*_analog_place(analog), lambda each=analog: solution(each))["score"]
        for analog in analogs
    }


def _passes(cell: Experiment, formulas: Sequence[Formula]) -> list[Sequence[Formula]]:
    """The formulas in groups whose kernels, all blocks of them, take at most half of the memory (see `Job.plan`)."""
    train, every = len(cell.split.train), sum(map(len, (cell.split.train, cell.split.validation, cell.split.test)))
    size = 8 * len(cell.outputs.parameters()) * train * every * cell.outputs.n_outputs**2
    fitting = max(1, memory_bytes(cell.work.memory) // 2 // size)
    return [formulas[start : start + fitting] for start in range(0, len(formulas), fitting)]


def _solution(cell: Experiment, analog: KernelMethod, kernels: Sequence[np.ndarray]) -> Mapping[str, object]:
    """The score of the chosen solver, and what was chosen."""
    inputs = cell.inputs
    chosen = analog_solution(analog.formula, kernels, inputs.f0, inputs.y, inputs.n_validation, inputs.metric).chosen
    return {
        "score": chosen.test,
        "validation": chosen.validation,
        "parameters": chosen.parameters,
        "converged": chosen.converged,
    }


def published(budget: Budget) -> Budget:
    """The budget with the schedule and the clipping of princeton-nlp/LM-Kernel-FT (`src/trainer.py`): the learning rate
    falls linearly to zero, without a warm-up, and a gradient's norm is cut at 1.
    """
    return replace(budget, schedule="linear", clip=1.0)


def zero_shot(cell: Experiment, metric: str) -> float:
    """The pretrained model's test score."""

    def computed() -> Mapping[str, float]:
        first = len(cell.split.train) + len(cell.split.validation)
        f0, y = cell.inputs.f0[first:], cell.inputs.y[first:]
        return {"score": score(y, predicted_classes(f0), metric)}

    return cell.value(f"zero-shot-{metric}", {"metric": metric}, computed)["score"]


def pretrained_derivative(cell: Experiment) -> OutputDerivative:
    """How far the pretrained outputs are from the labels: mean |chi| over all examples of the cell (Table 5)."""
    found = cell.value("chi", {}, lambda: asdict(output_derivative(cell.inputs.f0, cell.inputs.y)))
    return OutputDerivative(**found)


@dataclass(frozen=True)
class AdamTuned:
    """The best Adam-FT run of a cell beside the pretrained model.

    Attributes:
        cell: the experiment that was run.
        budget: how the run is trained.
    """

    cell: Experiment
    budget: Budget

    @property
    def failed(self) -> bool:
        """Every run of the grid failed, so that there is no model to measure."""
        return self.cell.outcome(ADAM_FT.method, self._grid).failure is not None

    @property
    def grids(self) -> list[tuple[Method, list[Training]]]:
        """The method with the settings of its runs."""
        return [(ADAM_FT.method, self._grid)]

    @property
    def missing_kernels(self) -> list[KernelWork]:
        """The kernels of `fixed_features`, unless its result is kept."""
        if self.cell.kept(self._name("fixed-features"), self._features_key) is not None:
            return []
        return [KernelWork(separate_job(self.cell.outputs, self.cell.split.test[:MEASURED], None, None), 2 * [[SGD()]])]

    def linearization(self) -> LinearizationTest:
        """The accuracies of the pretrained, linearized and tuned model on the test examples (Table 8)."""
        if self.failed:
            return LinearizationTest(zero_shot(self.cell, LINEARIZED_BY), float("nan"), float("nan"))

        def computed() -> Mapping[str, float]:
            found = linearization(self.cell.outputs, self._run.outputs, self.cell.split.test)
            return asdict(found.test(self.cell.labels("test"), LINEARIZED_BY))

        key = {**self._key, "metric": LINEARIZED_BY}
        return LinearizationTest(**self.cell.value(self._name("linearization"), key, computed))

    def fixed_features(self) -> FixedFeatures:
        """The SGD kernels of the first test examples, before and after (Table 6)."""
        if self.failed:
            return FixedFeatures(float("nan"), float("nan"), {}, 0, 0)

        def computed() -> Mapping[str, object]:
            trained, rows = frozenset(self._run.parameters_after), self.cell.split.test[:MEASURED]
            before, after = (
                block_kernels(
                    outputs,
                    rows,
                    None,
                    SGD(),
                    trained.__contains__,
                    self.cell.work.memory,
                    None,
                    self.cell.work.progress,
                )
                for outputs in (self.cell.outputs, self._run.outputs)
            )
            return asdict(change_of_kernel(before, after))

        return FixedFeatures(**self.cell.value(self._name("fixed-features"), self._features_key, computed))

    @cached_property
    def _run(self) -> Run:
        """With its model, so read only where something is measured; full fine-tuning starts from the cell's outputs."""
        return self.cell.run(ADAM_FT.method, self._grid)

    @property
    def _grid(self) -> list[Training]:
        return self.budget.grid(ADAM_FT.method, ADAM_FT.optimiser)

    @property
    def _key(self) -> dict[str, object]:
        return run_key(ADAM_FT.method, self._grid)

    @property
    def _features_key(self) -> dict[str, object]:
        return {**self._key, "measured": MEASURED}

    def _name(self, what: str) -> str:
        return f"{what}-{identity_hash(self._key)[:12]}"
