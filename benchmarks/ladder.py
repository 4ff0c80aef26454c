"""Which approximation loses the truth of real LoRA runs: rungs between the model at the start and the run itself.

    PYTHONPATH=src python -m benchmarks.ladder minilm --data DATA --tasks trec --seeds 13 --out OUT
    PYTHONPATH=src python -m benchmarks.ladder table --out OUT

DATA has a folder for each task. Every task and seed is a cell: real LoRA runs of some placements (AdamW at --rate), and
the same runs in models that are linear in something. f is the model with its head, phi the features that the head
reads, J a Jacobian at the weights that are named, s B A what the adapters add to the weights:

    start           no training: the head of linear probing, with which every run begins
    function space  gradient descent with the kernel at the start, each block scaled as Adam steps in it: what a forecast
                    simulates (`candidates.adam`)
    replay          f = head(phi(W0) + J(W0) s B A): first order in the weights, bilinear in A and B. The head is trained,
                    and meets the features that have moved
    third           the same around the model after a third of a real run on all linear layers, adapters merged, with fresh
                    adapters and --third-rate
    end             f = f(theta_T) + J(theta_T) (theta - theta_T), where theta is A, B and the head of a placement, and
                    theta_T where its own real run ended: an oracle, which asks whether a better point would do
    end, weights    f = head(phi(W_T) + J(W_T) (W0 + s B A - W_T)): the replay around the weights at that end. It is
                    bilinear in A and B, and its head is not linearized

All but the first two are trained as the real run is: AdamW, the same batches in the same order, the same A. Every run is
read at its own lowest validation loss. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import TrainerCallback

from benchmarks.level import after_a_third
from benchmarks.linear_runs import AroundEnd, AroundWeights, Replayed, real_start
from benchmarks.tangent import KeptBert
from foretune.analysis.calibration import cross_entropy
from foretune.analysis.dynamics import GradientDescent, curves
from foretune.analysis.rank_statistics import rank_correlation
from foretune.analysis.scores import predicted_classes, score
from foretune.candidates.adam import adam_kernel
from foretune.candidates.candidate import ALPHA, Candidate, parameter_sizes
from foretune.candidates.evidence import Pool
from foretune.candidates.joint import function_space
from foretune.candidates.rules import shallowness
from foretune.experiment.experiment import EVALUATION, Experiment, Work, load_experiment
from foretune.experiment.sample import Sampled
from foretune.experiment.setting import PROBED_HEAD, DataSource, Question, Setting
from foretune.finetune.data import encoded_split
from foretune.finetune.engine import train
from foretune.finetune.followers import Followers
from foretune.finetune.history import best_of_history
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.quiet import restored_global_state
from foretune.finetune.training import Training
from foretune.finetune.tuned import Tuned
from foretune.kernels.lora import LoRA
from foretune.kernels.sgd import SGD
from foretune.model.load import load_model
from foretune.validation.runs import named_of

RUNGS = ("start", "function space", "replay", "third", "end", "end, weights")
LAYERS = "layer encoder.layer.0,layer encoder.layer.2,layer encoder.layer.5"
PLACEMENTS = f"{LAYERS},attention.self.query,intermediate.dense,all linear"


class AtEnd(TrainerCallback):
    """Keeps the trained parameters of the last step, whichever checkpoint is the best."""

    def __init__(self, tuned: Tuned) -> None:
        self.tuned, self.theta = tuned, dict[str, Tensor]()

    def on_train_end(self, *_args: object, **_kwargs: object) -> None:
        """They are what the model holds now."""
        self.theta = {name: tensor.clone() for name, tensor in self.tuned.state_dict().items()}


@dataclass(frozen=True)
class Reached:
    """What a run has at its lowest validation loss, its step there, and the seconds of the whole run."""

    accuracy: float
    test_loss: float
    validation_loss: float
    step: int
    seconds: float


def trained(tuned: Tuned, cell: Experiment, run: Training, *callbacks: TrainerCallback) -> Reached:
    """A run of any of the models, by the trainer of real runs."""
    data, start, y = encoded_split(tuned.outputs, cell.task, cell.split), time.process_time(), cell.labels("test")
    with restored_global_state(cell.outputs.lm.device):
        found = train(tuned, data, cell.task.metric, run, None, Followers(callbacks=callbacks))
    best, logits = best_of_history(found.history, run.best_by), found.test_logits
    return Reached(
        accuracy=score(y, predicted_classes(logits), cell.task.metric),
        test_loss=cross_entropy(logits, y),
        validation_loss=best.validation_loss,
        step=best.step,
        seconds=time.process_time() - start,
    )


def untrained(cell: Experiment) -> Reached:
    """What the head of linear probing has before the run."""
    inputs, y = cell.inputs, cell.labels("test")
    validation = slice(inputs.n_train, inputs.n_train + inputs.n_validation)
    f0 = inputs.f0[validation.stop :]
    return Reached(
        accuracy=score(y, predicted_classes(f0), cell.task.metric),
        test_loss=cross_entropy(f0, y),
        validation_loss=cross_entropy(inputs.f0[validation], cell.labels("validation")),
        step=0,
        seconds=0.0,
    )


def lora_pool(cell: Experiment, chosen: Sequence[Candidate]) -> Pool:
    """The kernels that the simulated runs of some candidates need: of their adapters and of the head."""
    adapted = {name for item in chosen for name in item.blocks}
    kernels = cell.kernels([LoRA(chosen[0].rank or 0, ALPHA)], EVALUATION, sorted(adapted))
    kernels |= cell.kernels([SGD()], EVALUATION, list(chosen[0].head))
    return Pool.sized(kernels, cell.inputs, parameter_sizes(cell.outputs))


def simulated(pool: Pool, chosen: Candidate, run: Training) -> Reached:
    """The run in function space."""
    start, inputs, of = time.process_time(), pool.inputs, pool.evidence(chosen)
    n, rate = inputs.n_train, run.optimiser.learning_rate
    kernel = adam_kernel(of.parts, of.entries, of.derivative, run.batch_of(n))
    descent = GradientDescent(rate, run.batch_of(n), seed=run.seed)
    (found,) = curves(function_space(kernel, inputs), descent, run.steps_for(n), run.interval(n))
    best = 1 + int(found.validation_loss[1:].argmin())
    at = (found.test_score, found.test_loss, found.validation_loss)
    return Reached(*(float(values[best]) for values in at), int(found.steps[best]), time.process_time() - start)


def measured(cell: Experiment, chosen: Sequence[Candidate], run: Training, third_rate: float) -> dict[str, Any]:
    """The real runs and all rungs of a cell, candidate by candidate; beside the runs, seconds that they share."""
    rows, clock = [*cell.split.train, *cell.split.validation, *cell.split.test], time.process_time
    found: dict[str, list[Reached]] = {name: [] for name in ("real", *RUNGS)}
    shared: dict[str, float] = {}

    def note(name: str, item: Candidate, reached: Reached) -> None:
        found[name].append(reached)
        told = {key: round(value, 3) for key, value in asdict(reached).items()}
        print(cell.task.name, cell.setting.seed, item.label, name, told, flush=True)

    start = clock()
    pool = lora_pool(cell, chosen)
    shared["function space"] = clock() - start
    shallow = [shallowness(pool.evidence(item)) for item in chosen]
    for item in chosen:
        note("start", item, untrained(cell))
        note("function space", item, simulated(pool, item, run))
    del pool  # activations need the memory
    for item in chosen:
        real = real_start(cell.outputs, item.tuning)
        end = AtEnd(real)
        note("real", item, trained(real, cell, run, end))
        real.load_state_dict(end.theta)
        start = clock()
        kept = KeptBert(real.outputs, rows)
        passed = clock() - start
        for name, model in (("end", AroundEnd), ("end, weights", AroundWeights)):
            reached = trained(model(cell.outputs, item.tuning, real, kept), cell, run)
            note(name, item, replace(reached, seconds=reached.seconds + passed))
        del kept
    start = clock()
    kept = KeptBert(cell.outputs, rows)
    shared["replay"] = clock() - start
    for item in chosen:
        note("replay", item, trained(Replayed(cell.outputs, item.tuning, kept), cell, run))
    start = clock()
    third = after_a_third(cell, chosen[0].rank or 0, run)
    kept = KeptBert(third.outputs, rows)
    shared["third"] = clock() - start
    gentle = replace(run, optimiser=replace(run.optimiser, learning_rate=third_rate))
    for item in chosen:
        note("third", item, trained(Replayed(third.outputs, item.tuning, kept), cell, gentle))
    return {
        "names": [item.label for item in chosen],
        "shallow": shallow,
        "sizes": cell.split.sizes,
        "shared": shared,
        "runs": {name: [asdict(each) for each in runs] for name, runs in found.items()},
    }


def numbers(cell: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Rung -> how far it is off in a cell, how it ranks, and its seconds over those of one real run."""
    of = {name: {key: np.array([run[key] for run in runs]) for key in runs[0]} for name, runs in cell["runs"].items()}
    real = of["real"]
    found = {
        name: {
            "points": 100 * float(np.abs(rung["accuracy"] - real["accuracy"]).mean()),
            "bias": 100 * float((rung["accuracy"] - real["accuracy"]).mean()),
            "nats": float(np.abs(rung["test_loss"] - real["test_loss"]).mean()),
            "bias in nats": float((rung["test_loss"] - real["test_loss"]).mean()),
            "rank": float(rank_correlation(-rung["test_loss"], -real["test_loss"])),
            "cost": (rung["seconds"].sum() + cell["shared"].get(name, 0.0)) / real["seconds"].mean(),
        }
        for name, rung in of.items()
    }
    found["real"]["rank"] = float(rank_correlation(-real["validation_loss"], -real["test_loss"]))
    found["depth"] = {"rank": float(rank_correlation(np.array(cell["shallow"]), -real["test_loss"]))}
    return found


def table(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Means over the cells that have a rung, then every cell."""
    each = {f"{cell['cell'][0]} {cell['cell'][1]}": numbers(cell) for cell in cells}
    shown = {"points": ".1f", "bias": "+.1f", "nats": ".3f", "bias in nats": "+.3f", "rank": ".2f", "cost": ".1f"}
    yield f"| rung | cells | {' | '.join(shown)} |\n|{'---|' * (2 + len(shown))}"
    for name in RUNGS:
        if having := [of[name] for of in each.values() if name in of]:
            means = (told(float(np.mean([of[key] for of in having])), form) for key, form in shown.items())
            yield f"| {name} | {len(having)} | {' | '.join(means)} |"
    for name in ("real", "depth"):
        yield f"\n{name}: mean rank {np.mean([of[name]['rank'] for of in each.values()]):.2f}"
    yield f"\n| cell | {' | '.join(RUNGS)} | real validation loss | shallow layers first |\n|{'---|' * (3 + len(RUNGS))}"
    for at, of in each.items():
        three = [(key, shown[key]) for key in ("points", "nats", "rank")]
        found = ([told(of[name][key], form) for key, form in three] if name in of else [] for name in RUNGS)
        rungs = " | ".join(", ".join(filter(None, each)) for each in found)
        yield f"| {at} | {rungs} | {of['real']['rank']:.2f} | {of['depth']['rank']:.2f} |"


def told(number: float, form: str) -> str:
    """A number; nothing where it is undefined, as the rank of a rung that tells all placements the same."""
    return "" if np.isnan(number) else f"{number:{form}}"


def main() -> None:
    """Measure cell by cell, each a line of JSON in OUT/ladder.jsonl; or print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="or `table`")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="trec,mpqa,mr,sst2,subj")
    parser.add_argument("--seeds", default="13")
    parser.add_argument("--n", type=int, default=192)
    parser.add_argument("--validation", type=int, default=96)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--third-rate", type=float, default=5e-4)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--evaluate-every", type=int, default=6)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--candidates", default=PLACEMENTS)
    parser.add_argument("--memory", default="6GiB")
    options = parser.parse_args()
    file = options.out / "ladder.jsonl"
    kept = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if options.model == "table":
        print(*table(kept), sep="\n")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    lm, done = load_model(options.model), {tuple(cell["cell"]) for cell in kept}
    run = Training(
        optimiser=AdamWOptimiser(options.rate),
        batch_size=16,
        epochs=options.epochs,
        evaluate_every=options.evaluate_every,
        best_by="loss",
        dropout=False,
    )
    for seed in map(int, options.seeds.split(",")):
        for task in options.tasks.split(","):
            if (task, seed, options.n) in done:
                continue
            source, question = DataSource(options.data / task, task=task), Question.answered_by(PROBED_HEAD)
            setting = Setting(source, Sampled(options.n), seed, options.test, question)
            cell = with_validation(load_experiment(setting, lm, None, Work(options.memory)), options.validation)
            known = {item.label: item for item in named_of(cell, options.rank)}
            chosen = [known[label] for label in options.candidates.split(",")]
            with file.open("a") as opened:
                line = {"cell": (task, seed, options.n), **measured(cell, chosen, run, options.third_rate)}
                opened.write(json.dumps(line) + "\n")


def with_validation(cell: Experiment, most: int) -> Experiment:
    """The cell with fewer validation rows; these and the test rows by length, so that their batches have few pads."""
    parts = {"validation": cell.split.validation[:most], "test": cell.split.test}
    ordered: dict[str, Any] = {name: sorted(rows, key=lambda row: len(row.text)) for name, rows in parts.items()}
    return replace(cell, split=replace(cell.split, **ordered))


if __name__ == "__main__":
    main()
