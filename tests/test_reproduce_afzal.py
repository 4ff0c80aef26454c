"""The recipes on the kernel's spectrum, on layers, Lipschitz constants and projected kernels, on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foretune.analysis.losses import targets
from foretune.analysis.rank_statistics import BootstrapEstimate
from foretune.candidates.pool import pool_of
from foretune.errors import UsageError
from foretune.experiment.budget import Budget
from foretune.papers.afzal.layers import LayerChoice, added_layers
from foretune.papers.afzal.lipschitz import RADII, Lipschitz, constants
from foretune.papers.afzal.runs import (
    RANK,
    SIGMA,
    TrainedPlacement,
    epoch_means,
    projections,
    single_training,
    trained_placement,
)
from foretune.papers.afzal.spectrum import (
    PlacementPoint,
    SpectrumAgainstTraining,
    correlation,
    correlation_finding,
    placements,
)
from foretune.papers.malladi.subspace import DIMENSIONS, RANKS, ProjectedKernel, Subspace, projected_kernels, slope
from foretune.papers.recipe import Study
from foretune.regime.smoothness import ball_constants
from tests.cases import language_model
from tests.conftest import family

BUDGET = Budget(steps=6, batch_sizes=(4,), learning_rates={"adamw": (1e-2,)})


@pytest.fixture(scope="module")
def study(mr_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    lm = language_model(family("bert-encoder"), torch.float32)
    return Study(lm, ("mr",), (4,), (13, 21), 12, tmp_path_factory.mktemp("cells"), mr_data, BUDGET)


def test_a_geometric_decay_has_its_own_rate_and_failed_or_short_runs_have_none() -> None:
    losses = tuple(2.0 * np.exp(-0.3 * np.arange(10)))
    assert TrainedPlacement(losses, 0.9).rate == pytest.approx(0.3)
    assert TrainedPlacement(losses, 0.9).risk == pytest.approx(losses[-1])
    assert np.isnan(TrainedPlacement(failure="x").rate) and np.isnan(TrainedPlacement((1.0,), 0.5).rate)
    assert epoch_means([1, 3, 5, 7, 9], 2) == [2, 6]
    assert epoch_means([1, 3, 5, 7], 4) == [2, 6]  # shorter than two epochs: halves
    assert epoch_means([1.0], 4) == [1.0]


def test_placements_are_keys_and_queries_with_values_of_some_layers_and_are_what_is_trained(study: Study) -> None:
    cell = study.cell("mr", 4, 13, "random head")
    found = placements(cell)
    assert len({frozenset(item.blocks) for item in found}) == len(found)
    first = next(item for item in found if item.name == "W_k of layer 0")
    assert first.blocks == ("encoder.layer.0.attention.self.key.weight",)
    assert all(item.rank == RANK and item.head == ("head.weight", "head.bias") for item in found)
    run = trained_placement(cell, first, single_training(study.budget))
    assert run.failure is None and len(run.losses) == 3 and 0 <= run.score <= 1
    assert trained_placement(cell, first, single_training(study.budget)) == run
    with pytest.raises(UsageError, match="no W_k of their own"):
        lm = language_model(family("gpt2-causal"), torch.float32)
        projections(replace(study, lm=lm).cell("mr", 4, 13, "random head").outputs, "W_k")
    with pytest.raises(UsageError, match=r"2 learning rates\. Give one, or none"):
        single_training(Budget(learning_rates={"adamw": (1e-3, 1e-2)}))


def test_the_spectrum_page_sets_kappa_beside_rate_and_score(study: Study) -> None:
    page = SpectrumAgainstTraining().page(study)
    (table,) = page.tables
    assert len(table.texts) >= 6 and all(len(row) == len(table.header) for row in table.texts)
    assert [figure.name for figure in page.figures] == ["kappa-rate-mr-k4", "kappa-score-mr-k4"]
    assert all(figure.points and len(figure.curves) == 2 for figure in page.figures)
    cell = study.cell("mr", 4, 13, "random head")
    pool = pool_of(cell, RANK)
    eigen = pool.evidence(placements(cell)[0]).spectrum
    kappa = (eigen.largest + SIGMA * pool.largest_of_all(RANK)) / (eigen.smallest + SIGMA * pool.largest_of_all(RANK))
    assert page.figures[0].curves[0].x is not None
    assert page.figures[0].curves[0].x[0] == pytest.approx(kappa)
    assert len(page.findings) == 2 and all("kappa" in line for line in page.findings)


def test_correlations_leave_failed_runs_out_and_findings_say_when_the_sign_cannot_be_told() -> None:
    def seed(values: list[float]) -> list[PlacementPoint]:
        return [
            PlacementPoint(str(n), 1.0, 0.0, float(n), TrainedPlacement((1.0, float(np.exp(-value))), 0.5))
            for n, value in enumerate(values)
        ]

    up = correlation([seed([1, 2, 3, 4, 5, 6])], "rate")
    assert up.value == pytest.approx(1) and "positive, as in the paper" in correlation_finding("x", "rate", up)
    failed = seed([1, 2, 3, 4, 5, 6])
    failed[5] = replace(failed[5], run=TrainedPlacement(failure="the loss became infinite"))
    assert correlation([failed], "rate").value == pytest.approx(1)
    assert np.isnan(correlation([failed], "score").value)
    assert "fewer than three" in correlation_finding("x", "score", correlation([failed], "score"))
    assert "opposite to the paper" in correlation_finding("x", "score", BootstrapEstimate(0.5, 0.2, 0.8))
    assert "sign is uncertain" in correlation_finding("x", "rate", BootstrapEstimate(0.5, -0.2, 0.8))


def test_adding_a_layer_has_the_exact_ratio_of_the_ridge_risks_between_its_brackets(study: Study) -> None:
    cell = study.cell("mr", 4, 13, "random head")
    (layer,) = added_layers(cell, single_training(study.budget))
    pool, blocks = pool_of(cell, RANK), projections(cell.outputs, "W_k")
    names = [name for members in blocks.values() for name in members]
    n = pool.inputs.n_train
    sigma = SIGMA * pool.largest_of_all(RANK)
    y = (targets(pool.inputs.y[:n], 1) - pool.inputs.f0[:n]).reshape(-1)
    kernels = [pool.of(tuple(chosen), RANK, pool.head).kernel[:, 0, :n, 0] for chosen in (names[:1], names)]
    before, after = (float(sigma * y @ np.linalg.solve(k + sigma * np.eye(n), y)) for k in kernels)
    assert layer.bounds.risk_ratio.exact == pytest.approx(after / before)
    sharp = layer.bounds.sharp_risk_ratio
    assert sharp.low - 1e-12 <= after / before <= sharp.high + 1e-12
    page = LayerChoice().page(study)
    assert page.tables[0].texts[0][0] == "0, 1" and len(page.figures[0].curves) == 3
    assert all(len(row) == len(page.tables[0].header) for row in page.tables[0].texts)
    assert any("eta is" in line for line in page.findings)


def test_lipschitz_constants_by_radius_are_those_of_random_directions(study: Study) -> None:
    cell = study.cell("mr", 4, 13, "probed head")
    found = np.array(constants(cell))
    norm = np.sqrt(sum(float(tensor.double().square().sum()) for tensor in cell.outputs.parameters().values()))
    np.testing.assert_allclose(found[:, 0], np.array(RADII) * norm, rtol=1e-6)
    assert (found[:, 1] <= found[:, 2]).all() and (found[:, 1] > 0).all()
    again = ball_constants(cell.outputs, cell.split.test[:4], [RADII[2] * norm])
    assert found[2, 1] == pytest.approx(again.average[0], rel=1e-5)
    page = Lipschitz().page(replace(study, seeds=(13,)))
    assert len(page.tables[0].texts) == len(RADII) and page.figures[0].logarithmic


def test_deviations_of_projected_kernels_fall_as_the_root_of_their_size(study: Study) -> None:
    found = [[ProjectedKernel("LoRA", size, 0.0, size**-0.5, np.inf) for size in RANKS]]
    assert slope(found, "LoRA") == pytest.approx(-0.5)
    seeds = replace(study, lm=language_model(family("bert-masked"), torch.float32), seeds=(13,))
    measured = projected_kernels(seeds.cell("mr", 4, 13), 13)
    assert [(item.kind, item.size) for item in measured] == [
        *(("IntrinsicDimension", k) for k in DIMENSIONS),
        *(("LoRA", rank) for rank in RANKS),
    ]
    for kind in ("IntrinsicDimension", "LoRA"):
        sizes = [item.relative for item in measured if item.kind == kind]
        assert sizes[-1] < 0.5 * sizes[0]
    assert all(item.largest <= item.bound for item in measured)
    page = Subspace().page(seeds)
    assert len(page.tables[0].texts) == len(DIMENSIONS) + len(RANKS)
    assert all("(theory: -0.5)" in line for line in page.findings)
