"""Kernels of the linear weights by packages that keep gradients of examples, beside foretune's, one output.

    python -m benchmarks.peers --out peers.md --threads 1,2
    OMP_NUM_THREADS=1 python -m benchmarks.peers --one dattri minilm 32

Needs an environment of its own, which `make benchmark` makes: foretune, bergson 2.5.1, dattri-llm 0.1.0 and
backpack-for-pytorch 1.7.1, without the torchvision and torchaudio that come with them. Every measurement is a process of
its own; methods take turns, and the median of three counts. All ways run the same examples in batches of eight by length,
and are held against foretune's kernel, entry by entry.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import foretune as ft
from benchmarks.case import Case, in_a_process
from foretune.kernels.feature_pass import tangent_features
from foretune.kernels.sketch import Sketch
from foretune.model.outputs import Outputs
from foretune.progress import peak_memory
from foretune.text.example import Example

BATCH, REPEATS = 8, 3
CASES = (("minilm", 32), ("smollm2", 8))
HEADER = """# Packages that keep the gradients of examples

`python -m benchmarks.peers --out docs/results/peers.md` makes the tables (`make benchmark` installs what it needs
in an environment of its own). The kernel of the weights of all linear layers, float32, one output; movie-review
snippets; median of {repeats} processes, ways taking turns. A way starts from the loaded model and ends with the
kernel. Where a package can take gradients of frozen layers, only the table of tokens is trained, so that autograd
forms no gradient of a weight. Peak is above the loaded model. *Off* is the relative distance from foretune's kernel.
Sketches are approximations, everything else is exact. Up to 64 examples the directions of foretune's default sketch are
made of all of them, so that little is off; of other examples docs/results/scale.md tells.
"""


def in_batches(outputs: Outputs, examples: list[Example]) -> list[tuple[list[int], dict[str, Tensor]]]:
    """Places and encoded batches, the longest first."""
    encoded = [outputs.encode(example) for example in examples]
    order = sorted(range(len(encoded)), key=lambda place: -len(encoded[place].ids))
    parts = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    return [(part, outputs.collate([encoded[place] for place in part])) for part in parts]


def linear_layers(outputs: Outputs) -> dict[str, torch.nn.Linear]:
    """Name -> linear layer, without those that share their weight with the table of tokens."""
    tables = {m.weight.data_ptr() for m in outputs.module.modules() if isinstance(m, torch.nn.Embedding)}
    found = {name: m for name, m in outputs.module.named_modules() if isinstance(m, torch.nn.Linear)}
    return {name: m for name, m in found.items() if m.weight.data_ptr() not in tables}


def linear_weights(outputs: Outputs) -> set[str]:
    """The names of their weights as foretune has them."""
    weights = {layer.weight.data_ptr() for layer in linear_layers(outputs).values()}
    return {name for name, tensor in outputs.parameters().items() if tensor.data_ptr() in weights}


def own(outputs: Outputs, examples: list[Example]) -> np.ndarray:
    """Foretune's kernel of the weights of linear layers."""
    return ft.block_kernels(outputs, examples, blocks=linear_weights(outputs).__contains__).matrix()


def sketched(outputs: Outputs, examples: list[Example], sketch: Sketch) -> np.ndarray:
    """Foretune's sketch of the same weights, then products."""
    job = ft.separate_job(outputs, examples, None, linear_weights(outputs).__contains__)
    return tangent_features(job, [ft.SGD()], sketch)["sgd"].matrix()


def restored(kernel: Tensor, batches: list[tuple[list[int], dict[str, Tensor]]]) -> np.ndarray:
    """A kernel in the order of the examples."""
    back = torch.tensor([place for part, _ in batches for place in part]).argsort()
    return kernel[back][:, back].double().numpy()


def gram(layers: Iterable[list[Tensor]]) -> Tensor:
    """The sum of the products of what each layer holds of the examples, batch by batch."""
    held = (torch.cat([part.flatten(1) for part in parts]) for parts in layers)
    return sum(((rows @ rows.T).double() for rows in held), torch.zeros(()))


def train_only(outputs: Outputs, wanted: Iterable[torch.nn.Linear | torch.nn.Embedding]) -> None:
    """Nothing requires a gradient but the weights of some modules."""
    outputs.module.requires_grad_(False)
    for module in wanted:
        module.weight.requires_grad_(True)


def token_table(outputs: Outputs) -> torch.nn.Embedding:
    """Where gradients can start without autograd forming one of a linear weight."""
    return next(module for module in outputs.module.modules() if isinstance(module, torch.nn.Embedding))


def bergson(outputs: Outputs, examples: list[Example], projection: int | None = None) -> np.ndarray:
    """Bergson's hooks collect a dense gradient, or a sketch, of every example; then products."""
    from bergson.collector.gradient_collectors import TraceCollector
    from bergson.gradients import GradientProcessor

    train_only(outputs, [token_table(outputs)])  # as bergson's own runs do
    outputs.module.device = torch.device("cpu")
    collector = TraceCollector(
        model=outputs.module,
        target_modules=set(linear_layers(outputs)),
        processor=GradientProcessor(projection_dim=projection),
        device="cpu",
        dtype=torch.float32,
    )
    batches = in_batches(outputs, examples)
    with collector:
        for _, batch in batches:
            collector.with_batch(torch.ones_like(batch["attention_mask"], dtype=torch.bool))
            outputs.forward(batch).sum().backward()
            outputs.module.zero_grad()
    return restored(gram(collector.mod_grads.values()), batches)


def backpack(outputs: Outputs, examples: list[Example]) -> np.ndarray:
    """BackPACK's `BatchGrad` of every linear layer, then products."""
    from backpack import backpack as active
    from backpack import extend
    from backpack.extensions import BatchGrad

    layers = [extend(module) for module in linear_layers(outputs).values()]
    train_only(outputs, layers)
    batches = in_batches(outputs, examples)
    held: dict[int, list[Tensor]] = {}
    for _, batch in batches:
        with active(BatchGrad()):
            outputs.forward(batch).sum().backward()
        for number, layer in enumerate(layers):
            if hasattr(layer.weight, "grad_batch"):
                held.setdefault(number, []).append(layer.weight.grad_batch)
                del layer.weight.grad_batch
            layer.weight.grad = None
    return restored(gram(held.values()), batches)


def dattri(outputs: Outputs, examples: list[Example]) -> np.ndarray:
    """dattri-LLM's factorized gradients of the linear layers, and its own similarity, as its cost model chooses."""
    from dattri_llm.gradient.gradient import Gradient
    from dattri_llm.gradient.hooks import LINEAR_IO, HookManager, HookManagerCallback, HookManagerConfig

    captured: list[Gradient] = []

    class Keep(HookManagerCallback):
        def on_step_end(self, record: Any) -> None:
            captured.append(record.gradient)

    class Named(torch.nn.Module):
        """The model, called with named tensors, by which dattri-LLM tells the examples."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = outputs.module

        def forward(self, **batch: Tensor) -> Tensor:
            return outputs.forward(batch)

    train_only(outputs, [token_table(outputs)])
    batches, model = in_batches(outputs, examples), Named()
    names = [f"inner.{name}" for name in linear_layers(outputs)]
    hooked = HookManagerConfig(
        hook_types=dict.fromkeys(names, LINEAR_IO),
        module_kwargs={name: {"has_bias": False} for name in names},
        include_frozen=True,
    )
    with HookManager(model, config=hooked, callbacks=[Keep()]).collect(deregister_on_exit=True):
        for _, batch in batches:
            model(**batch).sum().backward()
            model.zero_grad()
    size = len(captured)
    blocks = [[torch.empty(0)] * size for _ in range(size)]
    for row in range(size):
        for column in range(row, size):
            blocks[row][column] = captured[row].similarity(captured[column], reduce="all").double()
            blocks[column][row] = blocks[row][column].T
    return restored(torch.cat([torch.cat(row, 1) for row in blocks]), batches)


WAYS: dict[str, Callable[[Outputs, list[Example]], np.ndarray]] = {
    "foretune": own,
    "dattri": dattri,
    "bergson": bergson,
    "sketch": partial(sketched, sketch=Sketch()),
    "small-sketch": partial(sketched, sketch=Sketch(256, directions=0)),
    "bergson-sketch": partial(bergson, projection=16),
    "backpack": backpack,
}
NAMES = {
    "foretune": "**foretune**, linear weights",
    "dattri": "dattri-LLM 0.1.0, factorized, `similarity`",
    "bergson": "bergson 2.5.1, no projection, then products",
    "sketch": "foretune, its default sketch (512 numbers and 64 directions a layer)",
    "small-sketch": "foretune, a sketch of 256 numbers a layer alone",
    "bergson-sketch": "bergson 2.5.1, its default sketch (256 numbers a layer)",
    "backpack": "BackPACK 1.7.1, `BatchGrad`, then products",
}


def measured(way: str, model: str, n: int) -> dict[str, float]:
    """Seconds, CPU seconds, bytes above the loaded model, and the distance from foretune's kernel."""
    outputs, examples = Case(model, n, difference=True).outputs()
    own(outputs, examples[:2])  # threads and libraries start
    with peak_memory() as peak:
        wall, cpu = time.perf_counter(), time.process_time()
        kernel = WAYS[way](outputs, examples)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    fresh, examples = Case(model, n, difference=True).outputs()
    expected = own(fresh, examples)
    off = float(np.linalg.norm(kernel - expected) / np.linalg.norm(expected))
    return {"wall": wall, "cpu": cpu, "peak": (peak.peak - peak.before) / 2**30, "off": off}


def table(model: str, n: int, threads: int, ways: list[str]) -> str:
    """One case as a table."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        for way in ways:
            runs[way].append(in_a_process("benchmarks.peers", way, model, n, threads=threads))
    medians: dict[str, dict[str, float]] = {}
    lines = [
        f"### {model}, N = {n}, {threads} thread(s)\n",
        "| way | CPU s | wall s | peak, GiB | CPU / foretune | memory / foretune | off |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in ways:
        good = [run for run in runs[way] if "failed" not in run]
        if not good:
            lines.append(f"| {NAMES[way]} | {runs[way][0]['failed']} | | | | | |")
            continue
        medians[way] = found = {key: statistics.median(run[key] for run in good) for key in good[0]}
        beside = medians["foretune"]
        lines.append(
            f"| {NAMES[way]} | {found['cpu']:.2f} | {found['wall']:.2f} | {found['peak']:.2f} | "
            f"{found['cpu'] / beside['cpu']:.2f} | {found['peak'] / beside['peak']:.2f} | {found['off']:.0e} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3, metavar=("WAY", "MODEL", "N"))
    parser.add_argument("--out", type=Path, default=Path("peers.md"))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--ways", default=",".join(WAYS), help="beside foretune")
    asked = parser.parse_args()
    if asked.one:
        way, model, n = asked.one
        print(json.dumps(measured(way, model, int(n))))
        return
    parts = [HEADER.format(repeats=REPEATS)]
    ways = list(dict.fromkeys(["foretune", *asked.ways.split(",")]))
    for threads in map(int, asked.threads.split(",")):
        for model, n in CASES:
            parts.append(table(model, n, threads, ways))
            print(parts[-1], flush=True)
    asked.out.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
