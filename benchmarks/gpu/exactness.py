"""What the card computes, held against float64 on the CPU with the same weights.

The error is that of a whole array: `||found - expected|| / ||expected||`. In float32 it may be ten times the error that the
CPU makes in float32; signs of entries near zero turn over, so that sign kernels may be off by a percent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch

import foretune as ft
from benchmarks.gpu.models import TASK, TINY, Model, chosen, examples, with_weights_of
from benchmarks.gpu.record import Record, Table
from foretune.finetune.methods import FullTuning, LoRATuning, Method
from foretune.finetune.optimisers import AdamWOptimiser
from foretune.finetune.run import Run, fine_tuned
from foretune.finetune.training import Training
from foretune.finetune.warm_up import warmed_outputs
from foretune.kernels.formula import Formula
from foretune.kernels.job import Job
from foretune.kernels.law import check_law
from foretune.kernels.memory_plan import BATCH, TilePlan
from foretune.kernels.signs import SignFormula
from foretune.model.batches import outputs_and_features
from foretune.model.outputs import Outputs
from foretune.regime.linearization import linearization
from foretune.regime.smoothness import segment_constants

FORMULAS: tuple[Formula, ...] = (
    ft.SGD(),
    ft.LoRA(1),
    ft.LoRA(8),
    ft.SignGD(),
    ft.AsymmetricSignGD(),
    ft.Kronecker(64),
    ft.IntrinsicDimension(64),
    ft.Rademacher(64),
)
_FLOOR, _SIGNS, _TIMES = 1e-5, 0.02, 10
_HALVES = ("bfloat16 on the card", "bfloat16 on the CPU")
Values = dict[str, np.ndarray]
_LAST = re.compile(r"\.(?:layers?|h)\.1\.")
"""Parameters of the second of two layers."""


def exactness(record: Record, device: str, *, small: bool, names: Sequence[str] = ()) -> None:
    """The section: kernels, features, the law, training, warm-up and linearization on tiny random models."""
    table = Table(
        "Exactness",
        ("model", "what", "float64 on the card", "float32 on the card", "float32 on the CPU", "may be", *_HALVES),
        notes=[
            "Relative error against float64 on the CPU with the same weights. bfloat16 rounds them too, and is not judged."
        ],
    )
    record.tables.append(table)
    known = list(chosen(names, TINY))[: 2 if small else None]
    for name in known:
        with record.guarded(f"kernels of {name}"):
            _compared(record, table, name, device, lambda outputs: _kernels(outputs, few=small), halves=True)
    for name in known[:1] if small else [name for name in ("llama, prompt", "bert, head") if name in known]:
        for what, values in _TRAINING.items():
            with record.guarded(f"{what}, {name}"):
                _compared(record, table, name, device, values)


def _compared(
    record: Record, table: Table, name: str, device: str, values: Callable[[Outputs], Values], *, halves: bool = False
) -> None:
    """One model's values at four places: the truth, the card in both precisions, the CPU in float32; and in bfloat16."""
    model = TINY[name]
    base = model.made()
    places = ((torch.float64, "cpu"), (torch.float64, device), (torch.float32, device), (torch.float32, "cpu"))
    truth, *others = (_at(model, name, base, dtype, where, values) for dtype, where in places)
    half = [_at(model, name, base, torch.bfloat16, where, values) for where in (device, "cpu") if halves]
    for what, expected in truth.items():
        double, single, beside = (_error(found[what], expected) for found in others)
        rounded = {each: _error(found[what], expected) for each, found in zip(_HALVES, half, strict=False)}
        floor = _SIGNS if what in _SIGNED else _FLOOR
        allowed = max(_TIMES * beside, floor)
        exact = max(model.exact, 1e-6 if what in _TRAINED else 0.0)
        record.figure(model=name, what=what, card64=double, card32=single, cpu32=beside, **rounded)
        errors = (f"{error:.1e}" for error in (double, single, beside))
        halved = (f"{rounded[each]:.1e}" if halves else "" for each in _HALVES)
        table.rows.append((name, what, *errors, f"{exact:.0e}, {allowed:.0e}", *halved))
        if not (double <= exact and single <= allowed):
            record.misses.append(f"{name}, {what}: {double:.1e} in float64, {single:.1e} in float32")


def _at(
    model: Model,
    name: str,
    base: torch.nn.Module,
    dtype: torch.dtype,
    where: str,
    values: Callable[[Outputs], Values],
) -> Values:
    """The values of one copy of the model."""
    outputs = model.outputs(with_weights_of(base, dtype, where), name)
    torch.manual_seed(0)
    return values(outputs)


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), np.finfo(float).tiny))


_SIGNED = {formula.label for formula in FORMULAS if isinstance(formula, SignFormula)}
_TRAINED = {"losses of ft", "outputs of ft", "losses of lora", "outputs of lora", "outputs after 2 steps"}


def _kernels(outputs: Outputs, *, few: bool) -> Values:
    """Every formula's kernel of six examples against ten, outputs and features."""
    train, others = examples(6, 9), examples(4, 12, seed=1)
    formulas = list(FORMULAS[:2] if few else FORMULAS)
    job = ft.joint_job(outputs, train, others)
    check_law(job.source, {formula: formula.blocks(job.kinds) for formula in formulas}, range(job.n), BATCH)
    found: Values = {label: kernel.array for label, kernel in ft.kernels_of(job, formulas).items()}
    if not few:
        found["sgd, in tiles"] = _in_tiles(job)
        last = ft.joint_job(outputs, train, others, [name for name in outputs.parameters() if _LAST.search(name)])
        whole, kept = (_in_tiles(last, front) for front in (0, 2**30))
        if not np.array_equal(whole, kept):
            raise RuntimeError("The kernel of the last layer is not the same bits where what enters it is kept.")
        found["sgd, layers in front kept"] = kept
    inputs = outputs_and_features(outputs, [*train, *others])
    return {**found, "outputs": inputs.outputs, "features": inputs.features}


def _in_tiles(job: Job, front: int = 0) -> np.ndarray:
    """The kernel in tiles of three examples against four, with so many bytes for what enters the first wanted layer."""
    plan = TilePlan(batch=2, rows=3, columns=4, passes=0, peak=0, front=front)
    with patch.object(Job, "plan", lambda *_, **__: plan):
        return ft.kernels_of(job, [ft.SGD()])["sgd"].array


def _tuned(outputs: Outputs, method: Method) -> Run:
    """Six steps."""
    split = ft.Split(examples(12, 9), examples(6, 9, seed=1), examples(6, 9, seed=2))
    training = Training(AdamWOptimiser(1e-3), steps=6, evaluate_every=3, dropout=False)
    return fine_tuned(outputs, TASK, split, method, training)


def _training(outputs: Outputs, method: Method) -> Values:
    run = _tuned(outputs, method)
    return {f"losses of {method.label}": np.array(run.losses), f"outputs of {method.label}": run.test_logits}


def _warmed(outputs: Outputs) -> Values:
    split = ft.Split(examples(12, 9), examples(6, 9, seed=1), [])
    warmed = warmed_outputs(outputs, TASK, split, 2)
    return {"outputs after 2 steps": outputs_and_features(warmed.outputs, split.validation).outputs}


def _linear(outputs: Outputs) -> Values:
    """The step to another model, taken by the linearization; products with the kernel; constants on the way."""
    rows = examples(5, 9)
    moved = with_weights_of(outputs.lm.module, outputs.lm.dtype, str(outputs.lm.device))
    with torch.no_grad():
        for number, parameter in enumerate(moved.parameters()):
            wave = torch.arange(parameter.numel(), dtype=torch.float64).add_(number).sin_().view(parameter.shape)
            parameter += (1e-3 * wave).to(parameter)
    after = _like(outputs, moved)
    found = linearization(outputs, after, rows)
    v = np.sin(np.arange(len(rows) * outputs.n_outputs, dtype=np.float64) + 1)
    return {
        "linearized outputs": found.linear,
        "kernel operator times a vector": ft.kernel_operator(outputs, rows) @ v,
        "turning of the features": segment_constants(outputs, after, rows[:2], points=1).values,
    }


def _like(outputs: Outputs, module: torch.nn.Module) -> Outputs:
    lm = replace(outputs.lm, module=module)
    return (
        ft.HeadLogits(lm, pooling=outputs.pooling) if isinstance(outputs, ft.HeadLogits) else ft.AnswerLogits(lm, TASK)
    )


_TRAINING: dict[str, Callable[[Outputs], Values]] = {
    "full fine-tuning": lambda outputs: _training(outputs, FullTuning()),
    "LoRA": lambda outputs: _training(outputs, LoRATuning()),
    "warm-up": _warmed,
    "linearization": _linear,
}
