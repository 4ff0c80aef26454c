"""Kernels, features, runs and whole studies in parts: the same bits by every engine, also where a machine is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import foretune as ft
from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment, load_experiment
from foretune.experiment.items import AskedCell, AskedGrid, ModelInHand, carry_out_runs
from foretune.experiment.record import kernels_with
from foretune.experiment.sample import FewShot
from foretune.experiment.setting import DataSource, Setting
from foretune.finetune import engine
from foretune.finetune.methods import LoRATuning
from foretune.finetune.optimisers import AdamWOptimiser, SGDOptimiser
from foretune.finetune.training import Training
from foretune.kernels.job import joint_job
from foretune.kernels.sketch import Sketch
from foretune.model.load import LanguageModel, ModelSource, load_model
from foretune.papers.items import carry_out_recipe
from foretune.papers.recipe import Study
from foretune.papers.recipes import recipe_named
from foretune.progress import Progress
from foretune.store.tensors import read_tensors
from foretune.work.crew import Crew
from foretune.work.here import ThisProcess
from foretune.work.on_ray import OnRay
from foretune.work.processes import LocalProcesses
from tests.conftest import many_rows, write_jsonl
from tests.work_items import ray_of_two_nodes

FORMULAS = [ft.SGD(), ft.LoRA(2), ft.SignGD(), ft.Kronecker(8)]
TUNED = LoRATuning(2)
GRID = [Training(AdamWOptimiser(rate), batch_size=4, steps=3, evaluate_every=2) for rate in (1e-3, 1e-2, 1e-1)] + [
    Training(SGDOptimiser(1e20), batch_size=4, steps=3, evaluate_every=2)
]
"""The last one fails, which is a result."""


@pytest.fixture(scope="module")
def lm(bert_folder: Path) -> LanguageModel:
    return load_model(str(bert_folder))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(file, many_rows(140))
    return file


def in_parts(crew: Crew, lm: LanguageModel, rows: Path, folder: Path, progress: Progress | None = None) -> Experiment:
    """An experiment whose runs, kernels and features a crew made."""
    found = load_experiment(Setting(DataSource(str(rows)), FewShot(8), test=80), lm, folder)
    carry_out_runs(crew, [AskedGrid(AskedCell.of(found), found, TUNED, GRID)], progress)
    job = joint_job(found.outputs, *found.examples)
    found.work.crew = crew
    kernels_with(found, job, FORMULAS)
    kernels_with(found, job, FORMULAS[:2], sketch=Sketch(8, directions=2))
    return found


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Everything with numbers in the folder of an experiment, by the name of its file."""
    found = {str(f.parent): ft.BlockKernel.open(f.parent).array for f in folder.glob("kernels/*/kernel.json")}
    found |= {str(f): np.load(f) for f in (*folder.rglob("chunks/*.npy"), *folder.rglob("test.npy"))}
    for file in folder.rglob("best/*.safetensors"):
        found |= {f"{file}: {name}": tensor.numpy() for name, tensor in read_tensors(file).items()}
    return {name.removeprefix(str(folder)): array for name, array in sorted(found.items())}


@pytest.fixture(scope="module")
def alone(lm: LanguageModel, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """By this process."""
    folder = tmp_path_factory.mktemp("alone") / "one"
    with ThisProcess(1, ModelInHand(lm)) as crew:
        found = in_parts(crew, lm, rows, folder)
    job = joint_job(found.outputs, *found.examples)
    assert len(list(folder.rglob("failure.json"))) == 1
    for formula in FORMULAS:  # the tiles are those of a plan of its own, so that the last digits differ
        whole = ft.kernels_of(job, [formula])[formula.label].array
        kept = ft.BlockKernel.open(folder / "kernels" / formula.label).array
        np.testing.assert_allclose(kept, whole, rtol=1e-3, atol=1e-5 * abs(whole).max())
    return arrays(folder)


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """See that they are the same to the last bit."""
    assert sum(name.endswith(".npy") for name in expected) == 5  # three runs and two chunks
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


def test_two_processes_make_the_bits_of_one(
    alone: Mapping[str, np.ndarray], lm: LanguageModel, bert_folder: Path, rows: Path, tmp_path: Path
) -> None:
    with LocalProcesses(2, ModelSource(str(bert_folder)), cpus=1) as crew:
        in_parts(crew, lm, rows, tmp_path / "two")
    assert_same(arrays(tmp_path / "two"), alone)
    assert not list(tmp_path.rglob(".*"))


def test_of_two_machines_one_is_lost_and_the_bits_are_those_of_one_process(
    alone: Mapping[str, np.ndarray],
    lm: LanguageModel,
    bert_folder: Path,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[int] = []
    count = Crew._count_loss
    monkeypatch.setattr(Crew, "_count_loss", lambda crew, place, error: (lost.append(place), count(crew, place, error)))
    with ray_of_two_nodes() as (cluster, second):
        left = [second]

        def kill(what: str, done: int, _: int) -> None:
            if what == "runs" and done == 1:
                cluster.remove_node(left.pop(), allow_graceful=False)

        with OnRay(2, ModelSource(str(bert_folder)), cpus=1) as crew:
            in_parts(crew, lm, rows, tmp_path / "ray", kill)
    assert not left and len(lost) == 1
    assert_same(arrays(tmp_path / "ray"), alone)


@pytest.fixture
def studies(bert_folder: Path, mr_data: Path, lm: LanguageModel, tmp_path: Path) -> Iterator[Study]:
    cut = Budget(steps=2, evaluate_every=1, batch_sizes=(4,), learning_rates={"adamw": (1e-3,), "sgd": (1e-3,)})
    yield Study(lm, ("mr",), (4,), (13, 21), 12, tmp_path / "cells", mr_data, cut)


@pytest.mark.parametrize("name", [pytest.param("lpft-features", marks=pytest.mark.sweep), "afzal-layers"])
def test_a_page_in_parts_is_the_page_and_trains_nothing_more(
    name: str, studies: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_named(name)
    expected = recipe.page(replace(studies, root=tmp_path / "whole"))
    with ThisProcess(1, ModelInHand(studies.lm)) as crew:
        carry_out_recipe(recipe, studies, crew)
    monkeypatch.setattr(engine, "train", lambda *_: pytest.fail("everything is kept"))
    assert repr(recipe.page(studies)) == repr(expected)  # undefined numbers are not equal to themselves


def test_a_page_of_seconds_is_not_made_in_parts(studies: Study) -> None:
    with ThisProcess(1, ModelInHand(studies.lm)) as crew, pytest.raises(ft.ForetuneError, match="Leave --workers out"):
        carry_out_recipe(recipe_named("afzal-cost"), studies, crew)
