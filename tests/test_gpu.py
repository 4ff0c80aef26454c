"""What runs on a GPU alone, as far as a CPU can tell; `python -m benchmarks.gpu` checks the rest on a card."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from benchmarks.gpu import __main__ as benchmark

import foretune as ft
from foretune.kernels import tile, token_gram
from foretune.kernels.budget import device_bytes, refuse_beyond_host, sizes_on
from foretune.kernels.cost import product_rate
from foretune.kernels.memory_plan import BATCH, Footprint, Sizes, tile_plan
from foretune.kernels.products import add_in_parts
from foretune.kernels.tile import CHUNK_BYTES, chunk_bytes, in_pieces_of
from foretune.model.fingerprint import outputs_identity
from tests.cases import ROWS, language_model, outputs_of
from tests.conftest import family

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.sweep
def test_the_small_benchmark_finds_the_cpu_exact(tmp_path) -> None:
    asked = ["--device", "cpu", "--small", "--sections", "exactness,speed", "--out", str(tmp_path)]
    assert benchmark.main(asked) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    compared = [figure for figure in found["figures"] if "card64" in figure]
    assert len(compared) >= 16 and all(figure["card64"] == 0 for figure in compared)
    assert not [miss for miss in found["misses"] if "contraction" not in miss]
    page = (tmp_path / "gpu.md").read_text()
    assert "## Exactness" in page and "## Speed" in page and "## Failures" not in page


def test_a_part_that_fails_is_recorded_and_does_not_stop_the_others(tmp_path, monkeypatch) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("no card")

    monkeypatch.setattr(benchmark, "exactness", broken)
    monkeypatch.setattr(benchmark, "speed", lambda record, *_args, **_kwargs: record.figure(what="ran"))
    asked = ["--device", "cpu", "--small", "--sections", "exactness,speed", "--out", str(tmp_path)]
    assert benchmark.main(asked) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["figures"] == [{"what": "ran"}]
    assert "no card" in found["failures"][0]["error"] and "Traceback" in found["failures"][0]["traceback"]


@pytest.mark.parametrize(("entries", "parts"), [(640, 10), (1000, 3), (453, 7)])
def test_a_product_in_parts_is_the_product(entries: int, parts: int) -> None:
    generator = torch.Generator().manual_seed(entries)
    left, right = (torch.randn(size, entries, generator=generator) for size in (5, 7))
    found = torch.ones(5, 7, dtype=torch.float64)
    add_in_parts(found, left, right, parts)
    torch.testing.assert_close(found, 1 + left.double() @ right.double().T, rtol=1e-5, atol=1e-4)


def test_room_behind_the_rows_of_token_grams_changes_nothing(monkeypatch) -> None:
    outputs = outputs_of(language_model(family("llama-causal")))
    plain = ft.block_kernels(outputs, ROWS, ROWS[:2])
    for module in (tile, token_gram):
        monkeypatch.setattr(module, "aligned", lambda size, _device: -(-size // 8) * 8)
    found = ft.block_kernels(outputs, ROWS, ROWS[:2])
    np.testing.assert_allclose(found.array, plain.array, rtol=1e-12, atol=1e-14)


def test_work_is_cut_for_the_device() -> None:
    assert sizes_on(CPU, 2**31, 1) == Sizes() and Sizes().batches == [BATCH, 4, 2, 1]
    small, large = sizes_on(CUDA, 2**31, 2), sizes_on(CUDA, 100 * 2**30, 2)
    assert small.batch == large.batch == 64 and small.piece < large.piece
    for sizes, budget in ((small, 2**31), (large, 100 * 2**30)):
        footprint = Footprint(2**16, 2.0**18, 2.0**17)
        plan = tile_plan(footprint, ([60] * 96, [60] * 96), budget, overlap=True, single=False, sizes=sizes)
        assert sizes.reserve <= budget / 4 and plan.peak <= budget


def test_pieces_are_of_another_size_inside_only() -> None:
    with in_pieces_of(5):
        assert chunk_bytes() == 5
    assert chunk_bytes() == CHUNK_BYTES


def test_the_budget_is_two_gib_on_the_cpu_and_what_was_asked_for_on_a_gpu() -> None:
    assert device_bytes("auto", CPU) == device_bytes("2GiB", CUDA) == 2 * 2**30


def test_kernels_beyond_the_hosts_memory_are_refused() -> None:
    refuse_beyond_host(2**20)
    with pytest.raises(
        ft.ForetuneError, match=r"of the host's memory.*fewer examples, or fewer parameters \(--blocks\)"
    ):
        refuse_beyond_host(2**60)


def test_autocast_is_part_of_the_identity() -> None:
    outputs = outputs_of(language_model(family("bert-masked"), torch.float32))
    plain = outputs_identity(outputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert outputs_identity(outputs) == {**plain, "autocast": "bfloat16"}
    assert "autocast" not in plain and "float32 products" not in plain


def test_products_are_timed_in_the_models_precision() -> None:
    assert product_rate(64, 2, CPU, torch.bfloat16) > 0
