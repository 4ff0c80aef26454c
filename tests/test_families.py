"""Kernels of 118 families as users have them: prompt, head and LoRA against Jacobians of the untouched model."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import foretune as ft
from foretune.errors import ModelError
from tests.cases import TASK, tokenizer
from tests.families import FAMILIES, saved
from tests.oracles import untouched

ROWS = ["the film was good and the plot was good", "a dull story is slow"]
LORA = ft.LoRA(rank=3, alpha=5.0)
REFUSED = {
    "nystromformer": "of its own lengths only",
    "xglm": "has no double precision",
    "xlnet": "has no double precision",
}
"""What transformers itself cannot compute on these texts in float64."""


def loaded(name: str, folder: Path, dtype: str = "float64") -> ft.LanguageModel:
    """A family as a user has it; its tokenizer by file, which some families' own classes would rebuild."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dataclasses.replace(ft.load_model(saved(name, folder), dtype=dtype), tokenizer=tokenizer())


def asked(lm: ft.LanguageModel, output: str):
    """A prompt or a head on a model; None where it has no words to answer with."""
    if output == "head":
        return ft.HeadLogits(lm, n_outputs=3)
    try:
        return ft.AnswerLogits(lm, TASK)
    except ModelError:
        assert lm.kind == "encoder" or name_of(lm) in ("XLNetLMHeadModel",)
        return None


def name_of(lm: ft.LanguageModel) -> str:
    return type(lm.module).__name__


def kernels_of(outputs, formulas) -> dict[str, ft.BlockKernel]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ft.kernels_of(ft.separate_job(outputs, ROWS, None, None), formulas)


def assert_products(kernel: ft.BlockKernel, jacobians: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    """Every block is the product of its Jacobians, relative to its largest entry or to rounding of the whole."""
    oracle = {name: np.einsum("ncp,mdp->ncmd", *2 * (j.double().flatten(2).numpy(),)) for name, j in jacobians.items()}
    scale = max(np.abs(values).max() for values in oracle.values())
    for name, values in zip(kernel.names, kernel.array, strict=True):
        if name.startswith("head."):
            continue
        error = np.abs(values - oracle[name]).max()
        assert error <= tolerance * np.abs(oracle[name]).max() + 1e-12 * scale, name


def of_adapters(jacobians: dict[str, torch.Tensor], blocks, turned: dict[str, bool]) -> dict[str, torch.Tensor]:
    """The Jacobians of B: dW A^T, scaled."""
    found = {}
    for name in blocks:
        matrix = jacobians[name].mT if turned[name] else jacobians[name]  # (n, c, o, i)
        a = torch.from_numpy(LORA.matrix(name, matrix.shape[-1]))
        found[name] = LORA.scaling * matrix.double() @ a.T
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_kernels_and_adapters_are_those_of_the_untouched_model(name: str, tmp_path: Path) -> None:
    lm = loaded(name, tmp_path)
    if name in REFUSED:
        with pytest.raises(ModelError, match="cannot compute"):
            kernels_of(asked(lm, "head"), [ft.SGD()])
        return
    for output in ("prompt", "head"):
        outputs = asked(lm, output)
        if outputs is None:
            continue
        adapts = "linear" in outputs.kinds().values()
        kernels = kernels_of(outputs, [ft.SGD(), LORA] if adapts else [ft.SGD()])
        values, jacobians = untouched(tmp_path, outputs, ROWS)
        torch.testing.assert_close(outputs.forward(outputs.batch(ROWS)), values, rtol=1e-6, atol=1e-6)
        used = {key for key, j in jacobians.items() if j.abs().max() > 0}
        assert used <= set(kernels["sgd"].names)
        assert_products(kernels["sgd"], jacobians)
        if adapts:
            adapted = kernels["lora-r3"]
            assert_products(adapted, of_adapters(jacobians, adapted.names, outputs.matrices()))
