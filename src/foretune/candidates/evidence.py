r"""What the kernel says of a candidate, before anything is fine-tuned: one object that every question reads.

A `Pool` holds what all candidates share: kernels of blocks, labels and pretrained outputs, sizes of parameters, and how
much work may be done. `pool.evidence(candidate)` is what they say of one candidate. Everything there is computed when it
is first asked for, and once: the sum of the blocks' kernels, its spectrum, the simulated runs.

What is measured at the candidate's own scale ranks candidates: a ridge in units of its own lambda_max, a learning rate of
its own. Learning rate and number of steps are those of the smallest validation loss; test examples have no say.

    ||theta_T - theta0||^2 = a' K a           a: coefficients of the run, K: training kernel of the candidate

Kernels of blocks add up, and so do the squares of their changes: those of adapters and of a head are told apart by them.
For LoRA the parameters are B, and the weights change by s B A. The rows of A are nearly orthogonal for ranks far below
the number of inputs, with E ||row||^2 = 1/3 (kaiming), so that ||s B A|| is about s ||B|| / sqrt(3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from foretune.analysis.bounds import Bracket
from foretune.analysis.dynamics import (
    BestRun,
    Curves,
    FunctionSpace,
    GradientDescent,
    LogLoss,
    best_run,
    curves,
    typical_learning_rate,
)
from foretune.analysis.feature_kernel import Kernel
from foretune.analysis.label_regression import LabelRegression, label_regression
from foretune.analysis.output_derivative import chi
from foretune.analysis.scores import predicted_classes, scored
from foretune.analysis.selection import ByFold, best_by_fold, folds
from foretune.analysis.solvers import GridPoint, joint_data, named_solver, solve_on_grid
from foretune.analysis.spectrum import Spectrum, largest_eigenvalue
from foretune.candidates.adam import (
    AdamRate,
    PredictedRun,
    adam_rate,
    adam_run,
    planned_run,
    predicted_runs,
    reach,
    reach_beside,
)
from foretune.candidates.candidate import (
    ALPHA,
    Candidate,
    ParameterSizes,
    kernel_label,
    named_candidates,
    trained_head,
    trained_parameters,
)
from foretune.candidates.effort import Effort, effort_for
from foretune.candidates.greedy import greedy_candidates
from foretune.candidates.joint import (
    JointParts,
    first_examples,
    function_space,
    joint_kernel,
    train_matrix,
    train_spectrum,
    train_targets,
)
from foretune.candidates.risk import RELATIVE_SIGMA, relative_risk, relative_risk_alone
from foretune.candidates.scored import CandidateScore, LowestLoss, ScoredCandidate, lowest_loss
from foretune.errors import UsageError
from foretune.experiment.inputs import Inputs
from foretune.finetune.training import Training
from foretune.kernels.features import Blocked
from foretune.kernels.lora import LoRA
from foretune.shapes import Bool, Float64


@dataclass(frozen=True, eq=False)
class Pool:
    """What all candidates of one experiment share.

    Attributes:
        kernels: joint kernels by label, train x (train, validation, test): `sgd`, and `lora-r4` and so on; multiplied out
            or held as features.
        inputs: labels, pretrained outputs and features; without test examples where none may be looked at.
        sizes: shapes and norms of the parameters.
        effort: limits of the simulations and resamples.
        grid: settings of real runs with AdamW that are to be predicted.
        run: the run that is to be made, of which the learning rate is sought; `planned_run(n)` where nobody says.
    """

    kernels: Mapping[str, Blocked]
    inputs: Inputs
    sizes: ParameterSizes
    effort: Effort
    grid: tuple[Training, ...] = ()
    run: Training | None = None
    _known: dict[object, Evidence] = field(default_factory=dict, init=False, repr=False)
    _largest: dict[int | None, float] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def sized(
        cls,
        kernels: Mapping[str, Blocked],
        inputs: Inputs,
        sizes: ParameterSizes,
        grid: Sequence[Training] = (),
        run: Training | None = None,
    ) -> Pool:
        """A pool whose effort follows from the size of its kernels."""
        rows = inputs.n_train * inputs.f0.shape[1]
        return cls(kernels, inputs, sizes, effort_for(rows), tuple(grid), run)

    @cached_property
    def validation_folds(self) -> Bool[np.ndarray, "b v"]:
        """Folds of the validation examples, over which choices are corrected for their luck."""
        n, v = self.inputs.n_train, self.inputs.n_validation
        return folds(self.inputs.y[n : n + v])

    @cached_property
    def planned(self) -> Training:
        """The run that is to be made."""
        return self.run or planned_run(self.inputs.n_train)

    @cached_property
    def head(self) -> tuple[str, ...]:
        """The parameters of a classification head that take part."""
        return trained_head(self.kernels, self.sizes)

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Every candidate: linear probing, named sets of blocks, and what the greedy search adds to them."""
        named = named_candidates(self.kernels, self.sizes)
        known = {item.key for item in named}
        found = greedy_candidates(self.kernels, self.inputs, self.sizes, self.effort)
        return [*named, *(item for item in found if item.key not in known)]

    def evidence(self, candidate: Candidate) -> Evidence:
        """What is known of a candidate's blocks and method: the same object at every call."""
        return self.of(candidate.blocks, candidate.rank, candidate.head)

    def of(self, blocks: tuple[str, ...], rank: int | None, head: tuple[str, ...]) -> Evidence:
        """The same for blocks, a rank (None for full tuning), and the parameters of a head that is trained too."""
        return self._known.setdefault((frozenset(blocks), rank, head), Evidence(self, blocks, rank, head))

    def forget(self, candidate: Candidate) -> None:
        """Drop what is known of a candidate, and its memory."""
        self._known.pop((frozenset(candidate.blocks), candidate.rank, candidate.head), None)

    def kernel_of(self, blocks: Sequence[str], rank: int | None) -> Blocked:
        """The kernels of a rank, with those of some blocks among them.

        Raises:
            UsageError: there is no kernel of this rank, or one of the blocks has none.
        """
        label, method = kernel_label(rank), "full tuning" if rank is None else f"LoRA of rank {rank}"
        if label not in self.kernels:
            raise UsageError(
                f"A candidate of {method} needs the kernel {label!r}; there are {', '.join(self.kernels)}."
            )
        names = set(self.kernels[label].names)
        missing = [name for name in blocks if name not in names]
        if missing or not blocks:
            raise UsageError(
                f"A candidate of {method} has blocks without a kernel {label!r}: {', '.join(missing[:3]) or '(no blocks)'}"
                f". Expected some of the {len(names)} blocks of that kernel."
            )
        return self.kernels[label]

    def summed(self, blocks: Sequence[str], rank: int | None) -> Kernel:
        """The sum of the joint kernels of some blocks, added in the order of the model; raises as `kernel_of` does."""
        return joint_kernel(self.kernel_of(blocks, rank), blocks)

    def largest_of_all(self, rank: int | None) -> float:
        """lambda_max of the training kernel of all blocks of a method together, with the head; computed once a method."""
        if rank not in self._largest:
            names, head = self.kernels[kernel_label(rank)].names, self.head if rank is not None else ()
            known = self._known.get((frozenset(names), rank, head))
            if known is not None:  # they are a candidate
                self._largest[rank] = known.spectrum.largest
            else:
                kernel = self.summed(names, rank)
                if head:
                    kernel = kernel + self.summed(head, None)
                self._largest[rank] = largest_eigenvalue(train_matrix(kernel))
        return self._largest[rank]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the kernel says of a candidate; each number is computed when it is first asked for.

    Attributes:
        pool: what it shares with the others.
        blocks: parameters that would be trained, without those of a head.
        rank: rank of LoRA; None for full tuning.
        head: parameters of a classification head, trained in full beside the blocks.
    """

    pool: Pool
    blocks: tuple[str, ...]
    rank: int | None
    head: tuple[str, ...]

    @property
    def inputs(self) -> Inputs:
        """Labels, pretrained outputs and features."""
        return self.pool.inputs

    @cached_property
    def kernel(self) -> Kernel:
        """The joint kernel: the sum of the kernels of the blocks and of the head.

        Raises:
            UsageError: there is no kernel of this rank, or one of the blocks has none.
        """
        if not self.blocks:
            return self.pool.summed(self.head, None)
        own = self.pool.summed(self.blocks, self.rank)
        return own + self.head_alone.kernel if self.head else own

    @property
    def head_alone(self) -> Evidence:
        """The evidence on the head without the blocks."""
        return self.pool.of((), None, self.head)

    @property
    def in_full(self) -> Evidence:
        """The evidence on the same blocks tuned in full: for adapters, on the weights that they stand on."""
        return self if self.rank is None else self.pool.of(self.blocks, None, self.head)

    @property
    def parts(self) -> JointParts:
        """The joint kernel of each block, those of the head last."""
        wanted = [(self.blocks, self.rank), (self.head, None)]
        return JointParts(*((self.pool.kernel_of(names, rank), names) for names, rank in wanted if names))

    @property
    def entries(self) -> list[int]:
        """Of each of the `parts`, the numbers that have a gradient at the start."""
        entries = self.pool.sizes.entries_with_gradient
        return [*(entries(name, self.rank) for name in self.blocks), *(entries(name, None) for name in self.head)]

    @property
    def trained(self) -> int:
        """Numbers that would be trained."""
        of = trained_parameters
        return of(self.blocks, self.rank, self.pool.sizes) + of(self.head, None, self.pool.sizes)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of the training kernel."""
        return train_spectrum(self.kernel)

    @cached_property
    def risk(self) -> Bracket:
        """Ridge risk at the kernel's own scale, 0 to 1, between its bounds."""
        return relative_risk(self.spectrum, train_targets(self.inputs))

    @property
    def exact_risk(self) -> float:
        """The risk alone, for many candidates: without a spectrum, and of `effort.risk_rows` rows at most."""
        most, (n, c) = self.pool.effort.risk_rows, (self.inputs.n_train, self.inputs.f0.shape[1])
        few = n if most is None else min(n, max(1, most // c))
        if few == n:
            return relative_risk_alone(train_matrix(self.kernel), train_targets(self.inputs))
        parts = [(self.blocks, self.rank), (self.head, None)]
        small = [first_examples(self.pool.kernel_of(names, rank), names, few) for names, rank in parts if names]
        kernel = small[0] if len(small) == 1 else small[0] + small[1]
        return relative_risk_alone(train_matrix(kernel), train_targets(self.inputs)[: few * c])

    @cached_property
    def space(self) -> FunctionSpace:
        """The linear regime."""
        return function_space(self.kernel, self.inputs)

    @cached_property
    def typical_rate(self) -> float:
        """The largest stable learning rate of full-batch gradient descent, around which rates are searched."""
        return typical_learning_rate(self.space, GradientDescent(1.0), self.spectrum.largest)

    @cached_property
    def descent(self) -> BestRun:
        """Full-batch gradient descent at learning rates of the candidate's own."""
        effort = self.pool.effort
        return best_run(self.space, GradientDescent(1.0), effort.steps, effort.every, self.typical_rate)

    @cached_property
    def lowest(self) -> LowestLoss:
        """The smallest validation loss of these runs."""
        return lowest_loss(self.descent.curves)

    @cached_property
    def by_fold(self) -> ByFold:
        """The best rate and step of these runs by the validation examples outside of each fold."""
        return best_by_fold(
            np.concatenate([run.validation_each for run in self.descent.curves]), self.pool.validation_folds
        )

    @cached_property
    def run(self) -> Curves:
        """The run with the smallest validation loss, up to there."""
        steps, rate = self.lowest.steps, self.lowest.learning_rate
        (run,) = curves(self.space, GradientDescent(1.0), steps, max(steps, 1), [rate])
        return run

    @cached_property
    def own_labels(self) -> LabelRegression:
        """The labels of training and validation examples, regressed on the candidate's own features."""
        y = self.inputs.y[: self.inputs.n_train + self.inputs.n_validation]
        return label_regression(self.kernel, y, eigen=self.spectrum)

    @property
    def labels(self) -> LabelRegression:
        """The same on the features of the blocks tuned in full."""
        return self.in_full.own_labels

    @cached_property
    def ridge(self) -> GridPoint:
        """Kernel ridge regression with validation's choice of hyperparameters."""
        inputs = self.inputs
        data = joint_data(self.kernel, inputs.f0, inputs.y, inputs.n_validation, inputs.metric, eigen=self.spectrum)
        return solve_on_grid(named_solver("ridge"), data).chosen

    @cached_property
    def adam(self) -> tuple[PredictedRun, ...]:
        """The runs of the pool's grid."""
        return predicted_runs(self.parts, self.entries, self.inputs, self.pool.grid)

    def reach(self, steps: int) -> float:
        """The largest rate of a run of Adam of so many steps for which the kernel speaks; see `candidates.adam`.

        That adapters of many blocks end earlier was measured with prompts. Behind a head that was fitted beforehand the
        best rates are higher than the simulation has it (docs/results/rates/README.md).
        """
        own = reach(self.blocks, self.rank, self.pool.sizes, steps)
        if self.rank is None or self.pool.head:
            return own
        return reach_beside(own, self.spectrum.largest, self.pool.largest_of_all(self.rank))

    @cached_property
    def adam_rate(self) -> AdamRate:
        """Where to begin with AdamW."""
        run = self.pool.planned
        within = self.reach(run.steps_for(self.inputs.n_train))
        return adam_rate(self.parts, self.entries, self.inputs, run, within, self.pool.validation_folds)

    @cached_property
    def adam_run(self) -> Curves | None:
        """The simulated run of AdamW from there, up to its lowest validation loss; None where no rate lowers it."""
        return adam_run(self.parts, self.entries, self.inputs, self.adam_rate)

    @property
    def derivative(self) -> Float64[np.ndarray, "n c"]:
        """chi = dl/df of the training examples."""
        n = self.inputs.n_train
        return chi(self.inputs.f0[:n], self.inputs.y[:n], LogLoss())

    @property
    def change(self) -> float:
        """Predicted change of blocks and head over their norm; infinite for weights that start at zero."""
        a = self.run.coefficients.reshape(-1)
        of_head = float(a @ (train_matrix(self.head_alone.kernel) @ a)) if self.head else 0.0
        of_all = float(a @ (self.space.train_matrix @ a))
        moved, head_moved = (math.sqrt(max(square, 0.0)) for square in (of_all - of_head, of_head))
        if self.rank is not None:
            moved *= LoRA(self.rank, ALPHA).scaling / math.sqrt(3)
        norm = self.pool.sizes.norm((*self.blocks, *self.head))
        return math.hypot(moved, head_moved) / norm if norm else float("inf")

    def scored(self, candidate: Candidate) -> ScoredCandidate:
        """A candidate of these blocks and this method, with its numbers."""
        inputs, run = self.inputs, self.run
        first_test = inputs.n_train + inputs.n_validation
        return ScoredCandidate(
            **{name: getattr(candidate, name) for name in ("name", "kind", "blocks", "rank", "parameters", "head")},
            score=CandidateScore(
                largest=self.spectrum.largest,
                condition_number=self.spectrum.condition_number(RELATIVE_SIGMA * self.spectrum.largest),
                risk=self.risk,
                label_error=self.labels.error,
                validation_loss=self.lowest.loss,
                validation_score=float(run.validation_score[-1]),
                test_loss=float(run.test_loss[-1]),
                score=scored(inputs.y[first_test:], predicted_classes(run.outputs[first_test:]), inputs.metric),
                learning_rate=self.lowest.learning_rate,
                steps=self.lowest.steps,
                change=self.change,
            ),
        )
