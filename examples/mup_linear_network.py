r"""Fine-tuning a wide network on a natural task follows its kernel: a three-layer linear network in muP.

    f(x) = V' W U x,    U ~ N(0, 1) (n, i),    W ~ N(0, 1/n) (n, n),    V ~ N(0, 1/n^2) (n,), frozen

After one pre-training step with chi = Theta(1), each fine-tuning step moves the function by

    f_t(x) - f_{t-1}(x) = -chi_t K(x, x_t) + O(chi^2)
    K(x, x') = sum over M of eta_M <d_M f(x), phi(d_M f(x'))>      phi = identity (SGD) or sign (SignGD)

so that the error over the movement is of order chi, at every width (Malladi et al. 2023, Appendix D.5, equations 10
and 11; Theorem D.4 for SignGD). For one SGD step the whole error is one product, exactly:

    eta_W eta_U chi_1^2 ||V||^2 <x_1, x> f_0(x_1)

(the text before equation 10 has f_0(x) in place of f_0(x_1); the derivation after it has f_0(x_1), and so has this run).

The learning rates are those of Table 10, with SignGD's times chi_max in fine-tuning (Assumption D.2 h); smooth SignGD has
e-sign(z) = z / (|z| + e) for sign (D.2 g). Table 10 itself (scale of a matrix's coordinates, of its pre-training update,
and of its learning rate) is fitted on the same networks: the learning rate as the one with which a step of that matrix
alone moves the output by 1.

    python examples/mup_linear_network.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from matplotlib.figure import Figure
from sweep import Law, law_table, options, slopes, table

INPUTS = 8
STEPS = 4
STEP_SIZE = 0.1  # of all learning rates: so small that all steps together leave some of chi
PRETRAINING_CHI = -4.0  # it takes f from about n^-1/2 to about 1
FROZEN_V = ("U", "W")
TABLE_10 = {
    "start": {"U": 0.0, "W": -0.5, "V": -1.0},
    "update": {"U": 0.0, "W": -1.0, "V": -1.0},
    "SGD rate": {"U": 1.0, "W": 0.0, "V": -1.0},
    "SignGD rate": {"U": 0.0, "W": -1.0, "V": -1.0},
}


@dataclass(frozen=True)
class Network:
    """The three matrices: u (n, i), w (n, n), v (n,)."""

    u: np.ndarray
    w: np.ndarray
    v: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """F of inputs (m, i): shape (m,)."""
        return self.back @ (self.u @ x.T)

    @cached_property
    def back(self) -> np.ndarray:
        """W' V, the derivative by the first hidden layer; the same for every input: shape (n,)."""
        return self.v @ self.w

    def factors(self, name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradient of one matrix at one input as an outer product of two vectors."""
        if name == "U":
            return self.back, x
        hidden = self.u @ x
        return (self.v, hidden) if name == "W" else (self.w @ hidden, np.ones(1))

    def moved(self, steps: Mapping[str, np.ndarray]) -> Network:
        """The network with steps added to its matrices."""
        return Network(self.u + steps.get("U", 0.0), self.w + steps.get("W", 0.0), self.v + steps.get("V", 0.0))


@dataclass(frozen=True)
class Rule:
    """An optimiser: how a gradient becomes a step.

    Attributes:
        name: of the optimiser.
        phi: of a gradient; of an outer product it is the outer product of phi of its factors.
        powers: learning rate of each matrix as a power of the width.
        step_size: the factor of phi, from chi_t and chi_max.
    """

    name: str
    phi: Callable[[np.ndarray], np.ndarray]
    powers: Mapping[str, float]
    step_size: Callable[[float, float], float]

    def rates(self, n: int, trained: Sequence[str]) -> dict[str, float]:
        """The learning rates of the trained matrices."""
        return {name: STEP_SIZE * n ** self.powers[name] for name in trained}


SGD = Rule("SGD", lambda g: g, TABLE_10["SGD rate"], lambda chi, chi_max: chi)
SMOOTHING = 0.25  # e as a share of the scale of what it is applied to


def smooth_sign(z: np.ndarray) -> np.ndarray:
    """Z / (|z| + e), for one factor of an outer product."""
    return z / (np.abs(z) + SMOOTHING * rms(z))


SIGN_GD = Rule("SignGD", np.sign, TABLE_10["SignGD rate"], lambda chi, chi_max: float(np.sign(chi)) * chi_max)
SMOOTH = replace(SIGN_GD, name="smooth SignGD", phi=smooth_sign)
RULES = (SGD, SIGN_GD, SMOOTH)


def initial(n: int, generator: np.random.Generator) -> Network:
    """The network before pre-training."""
    u, w, v = (generator.standard_normal(shape) for shape in ((n, INPUTS), (n, n), n))
    return Network(u, w / np.sqrt(n), v / n)


def unit_inputs(m: int, generator: np.random.Generator) -> np.ndarray:
    """M inputs of norm 1 (m, i) with positive inner products, as D.5 assumes."""
    x = 1 + generator.standard_normal((m, INPUTS)) / 2
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def updates(net: Network, x: np.ndarray, rule: Rule, size: float, trained: Sequence[str]) -> dict[str, np.ndarray]:
    """The steps of the trained matrices on one input."""
    found = {}
    for name, rate in rule.rates(len(net.v), trained).items():
        left, right = net.factors(name, x)
        step = -rate * size * np.outer(rule.phi(left), rule.phi(right))
        found[name] = step if name != "V" else step[:, 0]
    return found


def kernel(net: Network, tests: np.ndarray, x: np.ndarray, rule: Rule) -> np.ndarray:
    """K of every test input with one training input: shape (m,)."""
    found = np.zeros(len(tests))
    for name, rate in rule.rates(len(net.v), FROZEN_V).items():
        left, right = map(rule.phi, net.factors(name, x))
        at_tests = [net.factors(name, test) for test in tests]
        found += rate * np.array([(a @ left) * (b @ right) for a, b in at_tests])
    return found


def rms(values: np.ndarray) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))


def feature_change(before: Network, after: Network, tests: np.ndarray) -> float:
    """The largest over U and W of ||d f_t - d f_0||^2 / max ||d f_0||^2 (Definition D.3)."""
    ratios = []
    for name in FROZEN_V:
        change, size = [], []
        for test in tests:
            (a, b), (c, d) = before.factors(name, test), after.factors(name, test)
            size.append((a @ a) * (b @ b))
            change.append(size[-1] + (c @ c) * (d @ d) - 2 * (a @ c) * (b @ d))
        ratios.append(max(change) / max(size))
    return max(ratios)


def fine_tuned(start: Network, data: tuple[np.ndarray, np.ndarray], rule: Rule, chi: float) -> dict[str, float]:
    """Fine-tuning with the squared loss on targets at distance chi from f_0, beside what the kernel says.

    Args:
        start: the pretrained network.
        data: training inputs (one per step) and test inputs.
        rule: the optimiser.
        chi: |chi| of every training example at the start, so chi_max.

    Returns:
        Movement of the test outputs, its distance from the kernel's prediction after one and all steps, change of the
        features, and for one step the distance between that error and its closed form (SGD), relative to the error.
    """
    train, tests = data
    targets = start(train) - chi
    net, predicted, found = start, np.zeros(len(tests)), {}
    for place, x in enumerate(train):
        size = rule.step_size(float(net(x)) - targets[place], chi)
        predicted -= size * kernel(start, tests, x, rule)
        net = net.moved(updates(net, x, rule, size, FROZEN_V))
        error = net(tests) - start(tests) - predicted
        if place == 0:
            rates = rule.rates(len(net.v), FROZEN_V)
            closed = rates["U"] * rates["W"] * chi**2 * (net.v @ net.v) * (tests @ x) * start(x)
            found |= {"error of one step": rms(error), "closed form": rms(error - closed) / rms(error)}
    found["movement"] = rms(net(tests) - start(tests))
    found["error"] = rms(error)
    return found | {"features": feature_change(start, net, tests)}


def pretraining(net: Network, train: np.ndarray, tests: np.ndarray, rule: Rule) -> tuple[Network, list[float]]:
    """Two pre-training steps: the network after the first, and the non-linear part of each step."""
    errors, stages = [], [net]
    for x in train:
        linear = -PRETRAINING_CHI * kernel(stages[-1], tests, x, rule)
        stages.append(stages[-1].moved(updates(stages[-1], x, rule, PRETRAINING_CHI, FROZEN_V)))
        errors.append(rms(stages[-1](tests) - stages[-2](tests) - linear))
    return stages[1], errors


def scales(net: Network, x: np.ndarray) -> dict[str, dict[str, float]]:
    """The rows of Table 10 at one width, by matrix; updates are those of SGD."""
    steps = updates(net, x, SGD, PRETRAINING_CHI, tuple("UWV"))
    found: dict[str, dict[str, float]] = {row: {} for row in TABLE_10}
    for name, matrix in zip("UWV", (net.u, net.w, net.v), strict=True):
        left, right = net.factors(name, x)
        found["start"][name], found["update"][name] = rms(matrix), rms(steps[name])
        found["SGD rate"][name] = 1 / float((left @ left) * (right @ right))
        found["SignGD rate"][name] = 1 / float(np.abs(left).sum() * np.abs(right).sum())
    return found


@dataclass(frozen=True)
class Sweep:
    """Widths, sizes of chi, and root mean squares over seeds of what was measured.

    Attributes:
        widths, chis: what was swept.
        tuned: (rule, quantity) -> (widths, chis).
        natural: rule -> error / movement where chi = n^-1/2: (widths,).
        pretrained: rule -> non-linear part of two pre-training steps: (2, widths).
        scales: (row of Table 10, matrix) -> (widths,).
    """

    widths: Sequence[int]
    chis: Sequence[float]
    tuned: dict[tuple[str, str], np.ndarray]
    natural: dict[str, np.ndarray]
    pretrained: dict[str, np.ndarray]
    scales: dict[tuple[str, str], np.ndarray]


def measured(widths: Sequence[int], chis: Sequence[float], seeds: int) -> Sweep:
    """The whole sweep."""
    found: dict[tuple[str, ...], np.ndarray] = {}

    def add(key: tuple[str, ...], shape: tuple[int, ...], place: tuple[int, ...], value: float) -> None:
        found.setdefault(key, np.zeros(shape))[place] += value**2 / seeds  # a mean of logarithms breaks at zero

    for i, n in enumerate(widths):
        for seed in range(seeds):
            generator = np.random.default_rng([n, seed])
            net, first, train, tests = initial(n, generator), *(unit_inputs(m, generator) for m in (2, STEPS, 8))
            for row, values in scales(net, first[0]).items():
                for name, value in values.items():
                    add(("scales", row, name), (len(widths),), (i,), value)
            for rule in RULES:
                start, errors = pretraining(net, first, tests, rule)
                for step, error in enumerate(errors):
                    add(("pretrained", rule.name), (2, len(widths)), (step, i), error)
                natural = fine_tuned(start, (train, tests), rule, n**-0.5)
                add(("natural", rule.name), (len(widths),), (i,), natural["error"] / natural["movement"])
                for j, chi in enumerate(chis):
                    for name, value in fine_tuned(start, (train, tests), rule, chi).items():
                        add(("tuned", rule.name, name), (len(widths), len(chis)), (i, j), value)
    means = {key: np.sqrt(values) for key, values in found.items()}
    return Sweep(
        widths,
        chis,
        {key[1:]: values for key, values in means.items() if key[0] == "tuned"},  # pyright: ignore
        {key[1]: values for key, values in means.items() if key[0] == "natural"},
        {key[1]: values for key, values in means.items() if key[0] == "pretrained"},
        {key[1:]: values for key, values in means.items() if key[0] == "scales"},  # pyright: ignore
    )


def laws(sweep: Sweep) -> list[Law]:
    """Fitted slopes beside the paper's exponents."""
    found = []
    for rule in RULES:
        for quantity, order in (("movement", 1), ("error of one step", 2), ("error", 2), ("features", 2)):
            values = sweep.tuned[rule.name, quantity]
            label = f"{rule.name}: {quantity}"
            found.append(Law(label, "chi", str(order), slopes(sweep.chis, values)))
            found.append(Law(label, "n", "0", slopes(sweep.widths, values.T)))
        natural = slopes(sweep.widths, sweep.natural[rule.name])
        found.append(Law(f"{rule.name}: error / movement, chi = n^-1/2", "n", "-0.5", natural))
        first, second = slopes(sweep.widths, sweep.pretrained[rule.name])
        found.append(Law(f"{rule.name}: non-linear part, pre-training step 1", "n", "-0.5", first))
        found.append(Law(f"{rule.name}: non-linear part, pre-training step 2", "n", "0", second))
    return found


def scale_table(sweep: Sweep) -> str:
    """Table 10: the exponent of n, paper's and fitted."""
    rows = [
        [row, *(f"{power:g}: {slopes(sweep.widths, sweep.scales[row, name]):.2f}" for name, power in powers.items())]
        for row, powers in TABLE_10.items()
    ]
    return table(["Table 10, exponent of n: fitted", "U", "W", "V"], rows)


def picture(sweep: Sweep) -> Figure:
    """Movement and error against chi, and error over movement against the width."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    chis = np.array(sweep.chis)
    for axis, rule in zip(axes[:2], (SGD, SIGN_GD), strict=True):
        for i, n in enumerate(sweep.widths):
            axis.loglog(chis, sweep.tuned[rule.name, "movement"][i], "o-", ms=3, color=f"C{i}", label=f"n = {n}")
            axis.loglog(chis, sweep.tuned[rule.name, "error"][i], "s--", ms=3, color=f"C{i}")
        middle = sweep.tuned[rule.name, "error"][:, 0].max()
        axis.loglog(chis, 2 * middle * (chis / chis[0]) ** 2, ":", color="black", label="chi^2")
        axis.set(title=f"{rule.name}, {STEPS} steps", xlabel="chi", ylabel="movement (line), error (dashed)")
        axis.legend(fontsize=7)
    for rule, colour in ((SGD, "C0"), (SIGN_GD, "C1")):
        steps = sweep.pretrained[rule.name]
        axes[2].loglog(sweep.widths, sweep.natural[rule.name], "o-", color=colour, label=f"{rule.name}, chi = n^-1/2")
        axes[2].loglog(sweep.widths, steps[1], "s--", color=colour, label=f"{rule.name}, pre-training step 2")
    axes[2].set(title="fine-tuning and pre-training", xlabel="width n", ylabel="error / movement; error")
    axes[2].legend(fontsize=7)
    return figure


def main() -> None:
    """Print the fitted slopes and write the picture."""
    chosen = options("The three-layer linear muP network of Malladi et al. 2023, Appendix D.5.")
    widths = (64, 128, 256) if chosen.quick else (64, 128, 256, 512, 1024)
    chis = [2.0**-k for k in (range(2, 8, 2) if chosen.quick else range(2, 9))]
    sweep = measured(widths, chis, seeds=32 if chosen.quick else 16)
    print(law_table(laws(sweep)))
    print(f"\nOne SGD step against its closed form, relative: {sweep.tuned['SGD', 'closed form'].max():.0e}\n")
    print(scale_table(sweep))
    picture(sweep).savefig(chosen.out / "mup_linear_network.png", dpi=110)


if __name__ == "__main__":
    main()
