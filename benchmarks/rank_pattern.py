"""Ranks of LoRA module by module, chosen before training by marginal gain, against one rank for all modules.

    PYTHONPATH=src python -m benchmarks.rank_pattern minilm --data DATA --tasks mr,sst2,subj,mpqa --seeds 13 --out OUT
    PYTHONPATH=src python -m benchmarks.rank_pattern table --out OUT

DATA has a folder for each task. Every task and seed is a cell, a file of JSON in OUT; `table` prints the means over cells.
Each pattern of ranks is trained for real with every rate and run seed: AdamW, batches of 16, adapters on the linear layers
that have a rank, the head in full. The step and the rate are those of the lowest validation loss.

    uniform          --rank for every module
    twice            2 * --rank for every module: twice the parameters
    gain, LoRA       the parameters of `uniform`, spent step by step of `RANKS` where the label error falls most for each
                     parameter: label regression, which a forecast ranks by where a head answers, on the sum of the kernels
    gain, tangent    the same with the tangent kernels of the weights in the place of expected LoRA kernels
    shallow          the same number, 2 * --rank for the modules nearest to the input: a rule without data
    random           the same number, modules and ranks by chance

All patterns have the scaling of `uniform`, alpha / --rank, for every module (in peft an `alpha_pattern` in proportion to
the `rank_pattern`): then the expected kernel of a module is r times that of rank 1, and as many parameters move as fast.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretune.analysis.label_regression import label_regression
from foretune.candidates.candidate import ALPHA, parameter_sizes, trained_parameters
from foretune.candidates.pool import PARTS, pool_blocks
from foretune.experiment.experiment import Experiment, Work, load_experiment
from foretune.experiment.folder import Beside
from foretune.experiment.sample import Sampled
from foretune.experiment.setting import PROBED_HEAD, DataSource, Question, Setting
from foretune.finetune.copies import outputs_on
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.training import Training
from foretune.kernels.lora import LoRA
from foretune.kernels.sgd import SGD
from foretune.model.load import load_model
from foretune.model.outputs import Outputs
from foretune.shapes import Float64, Int

RANKS = (0, 2, 4, 8, 16, 32)
"""Ranks that a module may have in a pattern by gain or by chance."""
PATTERNS = ("uniform", "twice", "gain, LoRA", "gain, tangent", "shallow", "random")


@dataclass(frozen=True)
class PatternTuning(LoRATuning):
    """LoRA whose modules have ranks of their own and one scaling, alpha over `rank`, the largest of them.

    Attributes:
        ranks: module -> its rank; `targets` are the modules.
    """

    ranks: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, ranks: Mapping[str, int], scaling: float, seed: int) -> PatternTuning:
        """The tuning of the weights that have a rank."""
        chosen = tuple((name.removesuffix(".weight"), rank) for name, rank in ranks.items() if rank)
        largest = max(rank for _, rank in chosen)
        return cls(largest, scaling * largest, tuple(name for name, _ in chosen), seed=seed, ranks=chosen)

    def start(self, outputs: Outputs) -> Outputs:
        """Adapters of the largest rank, cut: the rows of A are drawn one after the other, and B is zero."""
        lm: Any = super().start(outputs).lm
        for path, rank in self.ranks:
            layer = lm.module.get_base_model().get_submodule(path)
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            a.data, b.data = a.data[:rank].clone(), b.data[:, :rank].clone()
        return outputs_on(lm, outputs)


def ranks_by_gain(
    kernels: Mapping[str, Float64[np.ndarray, "n c m d"]],
    head: Float64[np.ndarray, "n c m d"],
    y: Int[np.ndarray, " m"],
    costs: Mapping[str, int],
    budget: int,
) -> dict[str, int]:
    """Ranks whose steps lowered the label error most for each parameter, until no further step fits the budget.

    Args:
        kernels: module -> what each rank adds to the joint kernel, train x (train, validation).
        head: joint kernel of what is trained beside the modules.
        y: class numbers of the columns.
        costs: module -> parameters of each rank.
        budget: the most parameters.
    """
    ranks, total, left = dict.fromkeys(kernels, 0), head, budget
    error = label_regression(total, y).error
    while True:
        steps = {name: next((each for each in RANKS if each > rank), rank) - rank for name, rank in ranks.items()}
        steps = {name: more for name, more in steps.items() if more and more * costs[name] <= left}
        if not steps:
            return ranks
        errors = {name: label_regression(total + more * kernels[name], y).error for name, more in steps.items()}
        best = min(steps, key=lambda name: (errors[name] - error) / (steps[name] * costs[name]))
        ranks[best] += steps[best]
        total, error, left = total + steps[best] * kernels[best], errors[best], left - steps[best] * costs[best]


def ranks_in_order(wanted: Iterable[tuple[str, int]], costs: Mapping[str, int], budget: int) -> dict[str, int]:
    """Module after module its wanted rank, or as much of it as the budget still pays."""
    ranks, left = dict.fromkeys(costs, 0), budget
    for name, rank in wanted:
        ranks[name] = min(rank, left // costs[name])
        left -= ranks[name] * costs[name]
    return ranks


def patterns(cell: Experiment, rank: int, chosen: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Pattern -> ranks of its modules, parameters of its adapters, and label error of its expected LoRA kernel."""
    kernel = cell.kernels([SGD()], PARTS, pool_blocks(cell, rank))[SGD().label]
    sizes, y = parameter_sizes(cell.outputs), cell.inputs.y[: kernel.shape[3]]
    names = [name for name in kernel.moving if name not in sizes.head]
    head, tangent = kernel.summed(sizes.head), {name: kernel.summed([name]) / rank for name in names}
    one = LoRA(1, ALPHA / rank)
    lora = {name: rank * one.expected_ratio(sizes.shapes[name][1]) * each for name, each in tangent.items()}
    costs = {name: trained_parameters([name], 1, sizes) for name in names}
    budget, generator = rank * sum(costs.values()), np.random.default_rng(cell.setting.seed)
    drawn = [(str(name), int(generator.choice(RANKS[1:]))) for name in generator.permutation(names)]
    makers = {
        "uniform": lambda: dict.fromkeys(names, rank),
        "twice": lambda: dict.fromkeys(names, 2 * rank),
        "gain, LoRA": lambda: ranks_by_gain(lora, head, y, costs, budget),
        "gain, tangent": lambda: ranks_by_gain(tangent, head, y, costs, budget),
        "shallow": lambda: ranks_in_order([(name, 2 * rank) for name in names], costs, budget),
        "random": lambda: ranks_in_order(drawn, costs, budget),
    }
    found = {}
    for name in chosen:
        ranks = makers[name]()
        error = label_regression(sum((r * lora[of] for of, r in ranks.items()), head), y).error
        found[name] = {"ranks": ranks, "parameters": sum(r * costs[of] for of, r in ranks.items()), "error": error}
    return found


def measured(cell: Experiment, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Pattern -> what it is, and its real runs: rate, seed, step, validation loss, test score and loss."""
    found = patterns(cell, options.rank, options.patterns.split(";"))
    for name, pattern in found.items():
        pattern["runs"] = []
        for seed in range(options.runs):
            method = PatternTuning.of(pattern["ranks"], ALPHA / options.rank, seed)
            for rate in map(float, options.rates.split(",")):
                run = cell.outcome(method, (training(rate, seed, options),))
                kept = ("learning_rate", "step", "validation_loss", "test_score", "test_loss")
                pattern["runs"].append({"seed": seed, **{key: getattr(run, key) for key in kept}})
                print(cell.task.name, cell.setting.seed, name, pattern["runs"][-1], flush=True)
    return found


def training(rate: float, seed: int, options: argparse.Namespace) -> Training:
    """How a run is made."""
    return Training(
        optimiser=AdamWOptimiser(rate),
        batch_size=16,
        epochs=options.epochs,
        evaluate_every=options.evaluate_every,
        best_by="loss",
        dropout=False,
        precision=options.precision,
        seed=seed,
    )


def reached(pattern: Mapping[str, Any]) -> np.ndarray:
    """Test accuracy in points and test loss in nats at the best rate, the mean over run seeds."""
    runs = pattern["runs"]
    by_seed = ([run for run in runs if run["seed"] == seed] for seed in {run["seed"] for run in runs})
    best = [min(some, key=lambda run: run["validation_loss"]) for some in by_seed]
    return np.mean([(100 * run["test_score"], run["test_loss"]) for run in best], axis=0)


def table(cells: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Means over cells, differences with their standard errors, and every cell."""
    values = {name: {at: reached(found[name]) for at, found in cells.items() if name in found} for name in PATTERNS}
    heads = [
        "accuracy",
        "loss",
        *(f"{each} minus {to}" for to in ("uniform", "twice") for each in ("accuracy", "loss")),
    ]
    yield f"| ranks | cells | parameters | label error | {' | '.join(heads)} |\n|{'---|' * (4 + len(heads))}"
    for name, of_cell in values.items():
        if of_cell:
            told = [np.mean([cells[at][name][key] for at in of_cell]) for key in ("parameters", "error")]
            accuracy, loss = np.mean(list(of_cell.values()), axis=0)
            shown = [name, f"{len(of_cell)}", f"{told[0]:.0f}", f"{told[1]:.3f}", f"{accuracy:.1f}", f"{loss:.3f}"]
            for to in ("uniform", "twice"):
                gaps = np.array([of_cell[at] - values[to][at] for at in of_cell])
                wide = gaps.std(0, ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.full(2, np.nan)
                shown += [f"{mean:+.{d}f} ± {w:.{d}f}" for mean, w, d in zip(gaps.mean(0), wide, (1, 3), strict=True)]
            yield f"| {' | '.join(shown)} |"
    yield f"\n| cell | {' | '.join(PATTERNS)} |\n|{'---|' * (1 + len(PATTERNS))}"
    for at in cells:
        of_pattern = [values[name].get(at) for name in PATTERNS]
        yield f"| {at} | {' | '.join('' if each is None else f'{each[0]:.1f}, {each[1]:.3f}' for each in of_pattern)} |"


def main() -> None:
    """Measure cell by cell, or print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="or `table`")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="mr,sst2,subj,mpqa")
    parser.add_argument("--seeds", default="13")
    parser.add_argument("--patterns", default=";".join(PATTERNS), help="separated by semicolons")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--max-length", type=int, help="tokens of a text")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--rates", default="1e-4,3e-4,1e-3")
    parser.add_argument("--runs", type=int, default=1, help="run seeds")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--evaluate-every", type=int, default=24)
    parser.add_argument("--precision", choices=("full", "bf16"), default="full")
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.model == "table":
        every = {file.stem: json.loads(file.read_text()) for file in sorted(options.out.glob("*.json"))}
        for seed in sorted({at.split()[1] for at in every}, key=int):
            print(
                f"\nseed {seed}", *table({at: found for at, found in every.items() if at.split()[1] == seed}), sep="\n"
            )
        print("\nall", *table(every), sep="\n")
        return
    lm = load_model(options.model, device=options.device)
    for seed in map(int, options.seeds.split(",")):
        for task in options.tasks.split(","):
            source = DataSource(options.data / task, task=task)
            question = Question.answered_by(PROBED_HEAD, max_length=options.max_length)
            setting = Setting(source, Sampled(options.n), seed, options.test, question)
            place = Beside(options.out / options.model / setting.folder(task))
            cell = load_experiment(setting, lm, place, Work(options.memory))
            found = measured(cell, options)
            (options.out / f"{task} {seed}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
