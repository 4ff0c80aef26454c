"""What half precision costs is measured and said; weights that are elsewhere or packed are refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from torch import nn

import foretune as ft
from foretune.errors import ModelError
from foretune.experiment import precision
from foretune.experiment.experiment import load_experiment
from foretune.experiment.precision import precision_note
from foretune.experiment.sample import FewShot
from foretune.experiment.setting import DataSource, Setting
from foretune.model.live import live_model
from foretune.model.load import load_model
from foretune.model.placement import refuse_packed, refuse_scattered
from tests.cases import tokenizer
from tests.conftest import family, many_rows, run_cli

SETTING = Setting(DataSource(many_rows()), FewShot(6), test=8)
BLOCKS = ["encoder.layer.0.attention.self.query.weight", "encoder.layer.1.output.dense.weight"]


def test_the_error_of_half_precision_is_that_against_the_same_weights_in_float32(
    bert_folder: Path, tmp_path: Path
) -> None:
    half = load_experiment(SETTING, load_model(bert_folder, "bfloat16"), tmp_path / "half")
    (note,) = precision_note(half, BLOCKS)
    exact = load_model(bert_folder)
    exact.module.load_state_dict({name: each.float() for name, each in half.outputs.lm.module.state_dict().items()})
    head: Any = half.outputs.module.output_layer
    true = ft.HeadLogits(exact, 2, "mean", weight=head.weight, bias=head.bias)
    few = half.split.train[:8]
    kernels = [ft.block_kernels(outputs, few, blocks=BLOCKS).total() for outputs in (half.outputs, true)]
    outputs = [outputs.logits({}, outputs.batch(few)).double().numpy() for outputs in (half.outputs, true)]
    expected = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in (outputs, kernels)]
    found = re.fullmatch(
        r"On 8 training rows, bfloat16 against the same weights in float32: outputs are off by (\S+)%, the kernel by "
        r"(\S+)%\.",
        note,
    )
    assert found is not None, note
    assert [float(each) / 100 for each in found.groups()] == pytest.approx(expected, rel=0.2, abs=2e-3)
    assert 0 < float(found[2]) < 10
    assert precision_note(half, BLOCKS) == (note,)
    assert precision_note(load_experiment(SETTING, exact), BLOCKS) == ()


def test_a_copy_in_float32_that_does_not_fit_is_not_made(bert_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "free_memory", lambda _: 1000)
    half = load_experiment(SETTING, load_model(bert_folder, "bfloat16"))
    (note,) = precision_note(half, BLOCKS)
    assert note.startswith("How far bfloat16 is off was not measured: a copy in float32 takes")


@pytest.mark.parametrize("command", ["forecast", "kernel"])
def test_commands_print_the_error_of_half_precision(
    command: str, bert_folder: Path, data: Path, tmp_path: Path
) -> None:
    options = ("--k", 4, "--test", 8, "--blocks", "encoder.layer.0.attention.*,head.*", "--out", tmp_path / "run")
    found = run_cli(command, bert_folder, data, *options, "--dtype", "bfloat16", "--details", env={"COLUMNS": "200"})
    assert found.returncode == 0, found.stderr
    assert "training rows, bfloat16 against the same weights in float32: outputs are off by" in " ".join(
        found.stdout.split()
    )


def test_a_model_that_is_not_in_memory_is_refused_by_name() -> None:
    module = family("bert-encoder").build()
    accelerate.cpu_offload(module)
    with pytest.raises(ModelError, match=r"\d+ of \d+ weights of .* are not in memory.*device_map=\{'': 0\}"):
        live_model(module, tokenizer())
    with pytest.raises(ModelError, match="are not in memory"):
        ft.HeadLogits(ft.LanguageModel(module, tokenizer(), "mine", None, "encoder"), 2)


def test_a_model_on_several_devices_is_refused_by_name() -> None:
    places = [SimpleNamespace(device=torch.device(place)) for place in ("cuda:0", "cuda:0", "cuda:1")]
    module: Any = SimpleNamespace(parameters=lambda: iter(places))
    with pytest.raises(ModelError, match="of mine are on several devices: 2 on cuda:0, 1 on cuda:1"):
        refuse_scattered("mine", module)


class Int8Params(nn.Parameter):
    """As bitsandbytes names its weights."""


class Wrapped(torch.Tensor):
    """As torchao wraps its weights."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapped:  # noqa: D102
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.float32)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, torch.Tensor], *_: object) -> Wrapped:
        return cls(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].inner)
        raise NotImplementedError(func)


def packed(how: str) -> nn.Parameter:
    values = torch.zeros(2, 2, dtype=torch.int8)
    if how == "bitsandbytes":
        return Int8Params(values, requires_grad=False)
    return nn.Parameter(Wrapped(values), requires_grad=False)


@pytest.mark.parametrize(
    ("how", "said"), [("bitsandbytes", "bitsandbytes in 8 bits"), ("a wrapper", r"tests \(Wrapped\)")]
)
def test_packed_weights_are_refused_by_name(how: str, said: str) -> None:
    module = family("bert-encoder").build()
    module.encoder.layer[0].output.dense.weight = packed(how)
    with pytest.raises(
        ModelError, match=rf"'encoder.layer.0.output.dense.weight' of .* quantised by {said}.*load_in_4bit"
    ):
        live_model(module, tokenizer())
    refuse_packed("mine", family("bert-encoder").build())
