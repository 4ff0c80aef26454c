"""A greedy search for a set of modules: each step adds the one with the best predicted gain per trainable parameter.

The gain is the fall of the ridge risk at the set's own scale (`risk`); an empty set has risk 1, or that of the head
where a head is trained too. It looks at training examples only. The names of the sets, layers and module types, do
not restrict what it may choose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from foretune.analysis.feature_kernel import dense
from foretune.analysis.losses import targets
from foretune.candidates.candidate import (
    Candidate,
    ParameterSizes,
    candidate,
    kernel_label,
    ranks_of,
    trained_head,
    trained_parameters,
)
from foretune.candidates.effort import Effort
from foretune.candidates.joint import first_examples, train_matrix
from foretune.candidates.risk import relative_risk_alone
from foretune.experiment.inputs import Inputs
from foretune.kernels.features import Blocked
from foretune.shapes import Float64

_ROUNDING = 1e-9
"""A fall of the risk by less than this share of it is none."""


def greedy_candidates(
    kernels: Mapping[str, Blocked], inputs: Inputs, sizes: ParameterSizes, effort: Effort
) -> list[Candidate]:
    """The sets that the search holds after some of its steps (`effort.greedy_sizes`), for each method."""
    found, head = [], trained_head(kernels, sizes)
    start = _small_kernels(kernels[kernel_label(None)], {"head": head}, effort)["head"] if head else None
    for rank in ranks_of(kernels):
        kernel = kernels[kernel_label(rank)]
        members: dict[str, list[str]] = defaultdict(list)
        for name in kernel.moving:
            if name not in head:
                members[name.rpartition(".")[0] or name].append(name)
        costs = {module: trained_parameters(names, rank, sizes) for module, names in members.items()}
        small, y = _small_kernels(kernel, members, effort), _small_targets(inputs, effort)
        path = greedy_path(small, y, costs, effort, start)
        for size in sorted({min(size, len(path)) for size in effort.greedy_sizes} - {0}):
            blocks = [name for module in path[:size] for name in members[module]]
            found.append(candidate(greedy_name(size), "greedy", blocks, rank, sizes, head))
    return found


def greedy_name(size: int) -> str:
    """The name of a candidate of so many modules."""
    return f"greedy, {size} module{'s' if size > 1 else ''}"


def greedy_path(
    kernels: Mapping[str, Float64[np.ndarray, "k k"]],
    y: Float64[np.ndarray, " k"],
    costs: Mapping[str, int],
    effort: Effort,
    start: Float64[np.ndarray, "k k"] | None = None,
) -> list[str]:
    """Modules in the order in which they are added, until none lowers the risk.

    Args:
        kernels: module -> training kernel.
        y: targets.
        costs: module -> trainable parameters.
        effort: most steps, and how many modules stay in the search after the first.
        start: kernel of what is trained too, a head for example; nothing without one.
    """
    total = np.zeros((len(y), len(y))) if start is None else start
    risk, path, left = relative_risk_alone(total, y), [], list(kernels)
    for _ in range(max(effort.greedy_sizes)):
        risks = {module: relative_risk_alone(total + kernels[module], y) for module in left}
        order = sorted(left, key=lambda module: (risks[module] - risk) / costs[module])
        if not order or risk - risks[order[0]] <= _ROUNDING * risk:
            break
        best = order[0]
        path.append(best)
        total, risk = total + kernels[best], risks[best]
        left = order[1 : effort.greedy_pool]
    return path


def _small_kernels(
    kernel: Blocked, members: Mapping[str, Sequence[str]], effort: Effort
) -> dict[str, Float64[np.ndarray, "k k"]]:
    """Training kernels of the modules, on the first examples."""
    _, n, c, _, _ = kernel.shape
    few = _examples(n, c, effort)
    return {module: dense(train_matrix(first_examples(kernel, names, few))) for module, names in members.items()}


def _small_targets(inputs: Inputs, effort: Effort) -> Float64[np.ndarray, " k"]:
    c = inputs.f0.shape[1]
    return targets(inputs.y[: _examples(inputs.n_train, c, effort)], c).reshape(-1)


def _examples(n: int, c: int, effort: Effort) -> int:
    return max(1, min(n, effort.greedy_rows // c))
