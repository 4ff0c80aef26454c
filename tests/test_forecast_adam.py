"""Adam in function space: its kernel, and the learning rate that a forecast begins with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foretune.candidates.adam import (
    BATCH,
    EVALUATIONS,
    RATES,
    STEPS,
    TOGETHER,
    adam_kernel,
    adam_rate,
    planned_run,
    reach,
    reach_beside,
)
from foretune.candidates.candidate import ALPHA, ParameterSizes, candidate
from foretune.experiment.inputs import Inputs
from foretune.kernels.lora import LoRA
from tests.test_forecast import NAMES, WEIGHTS, pool_of, synthetic

PLANNED = planned_run(48)


def test_adam_kernel_makes_each_block_step_by_the_rate_in_each_entry() -> None:
    generator = np.random.default_rng(2)
    blocks = [scale * generator.standard_normal((5, 1, size)) for scale, size in ((1.0, 6), (100.0, 30))]  # (n, c, p)
    parts = [np.einsum("iap,jbp->iajb", block, block) for block in blocks]
    chi = generator.standard_normal((5, 1))
    found = adam_kernel(parts, [6, 30], chi, batch=5)
    steps = []
    for block in blocks:
        gradient = np.einsum("ia,iap->p", chi, block) / 5
        steps.append(np.einsum("iap,p->ia", block, gradient / np.sqrt(np.mean(gradient**2))))
    np.testing.assert_allclose(np.einsum("iajb,jb->ia", found, chi) / 5, sum(steps), rtol=1e-10)
    noisy = adam_kernel(parts, [6, 30], chi, batch=1)
    assert np.trace(noisy[:, 0, :, 0]) < np.trace(found[:, 0, :, 0])


def test_adam_kernel_with_batches_uses_the_mean_square_of_their_gradients() -> None:
    generator = np.random.default_rng(3)
    block, chi = generator.standard_normal((4, 1, 7)), generator.standard_normal((4, 1))
    rows = chi * block[:, 0]  # (n, p)
    pairs = [(rows[i] + rows[j]) / 2 for i in range(4) for j in range(i)]
    kernel = np.einsum("iap,jbp->iajb", block, block)
    expected = np.sqrt(7 / np.mean([pair @ pair for pair in pairs])) * kernel
    np.testing.assert_allclose(adam_kernel([kernel], [7], chi, batch=2), expected, rtol=1e-10)


def linear_problem(seed: int, scales: tuple[float, ...]) -> tuple[list[np.ndarray], Inputs]:
    """Blocks of features of these scales for two classes that the first block tells apart; 48 to train, 64 to validate."""
    generator = np.random.default_rng(seed)
    y = np.arange(112) % 2
    blocks = [scale * generator.standard_normal((112, 8)) for scale in scales]
    blocks[0] += scales[0] * (2 * y[:, None] - 1) * 0.4
    inputs = Inputs(y, np.zeros((112, 1)), np.zeros((112, 1)), 48, 64, 2, {}, "accuracy")
    return blocks, inputs


def kernels_of_blocks(blocks: list[np.ndarray]) -> list[np.ndarray]:
    return [np.einsum("ip,jp->ij", block[:48], block)[:, None, :, None] for block in blocks]


def real_losses(blocks: list[np.ndarray], inputs: Inputs, rates: tuple[float, ...]) -> list[float]:
    """The lowest validation loss of AdamW on the features themselves, rate by rate."""
    x, y = torch.tensor(np.concatenate(blocks, 1)), torch.tensor(inputs.y, dtype=torch.float64)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    found = []
    for rate in rates:
        theta = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
        optimiser, generator = torch.optim.AdamW([theta], lr=rate, weight_decay=0.0), torch.Generator().manual_seed(0)
        lowest, order = float("inf"), torch.empty(0, dtype=torch.long)
        for step in range(1, STEPS + 1):
            if not len(order):
                order = torch.randperm(48, generator=generator)
            batch, order = order[:BATCH], order[BATCH:]
            optimiser.zero_grad()
            loss(x[batch] @ theta, y[batch]).backward()
            optimiser.step()
            if step % (STEPS // EVALUATIONS) == 0:
                lowest = min(lowest, loss(x[48:] @ theta, y[48:]).item())
        found.append(lowest)
    return found


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 1.0), (0.3, 1.0), (30.0, 0.1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_rate_is_near_the_best_of_real_adam_on_a_linear_model(seed: int, scales: tuple[float, ...]) -> None:
    blocks, inputs = linear_problem(seed, scales)
    found = adam_rate(kernels_of_blocks(blocks), [8] * len(blocks), inputs, PLANNED)
    assert found.learning_rate is not None
    wide = tuple(float(rate) for rate in np.geomspace(1e-6, 1e2, 25))
    real = real_losses(blocks, inputs, wide)
    at = int(np.argmin(np.abs(np.log(np.array(wide) / found.learning_rate))))
    assert wide[at] == pytest.approx(found.learning_rate)
    assert real[at] - min(real) < 0.25 * (np.log(2) - min(real))  # three quarters of all there is to gain


def test_a_rate_is_not_made_up_where_no_step_helps() -> None:
    blocks, inputs = linear_problem(0, (1.0,))
    parts = kernels_of_blocks(blocks)
    parts[0][:, :, 48:] *= -1  # what training examples teach is wrong for the others
    found = adam_rate(parts, [8], inputs, PLANNED)
    assert found.learning_rate is None and found.validation_loss == pytest.approx(np.log(2))
    assert found.words.startswith("no learning rate from 1e-06 to 1e-01 lowers")


def test_adapters_of_more_blocks_reach_less_far_and_no_farther_than_their_own_norm() -> None:
    assert reach_beside(0.01, 6.0, 6.0) == pytest.approx(0.01 / 6)  # all blocks together
    assert reach_beside(0.01, 2.0, 6.0) == pytest.approx(0.01 / 2)
    assert reach_beside(0.01, 0.5, 6.0) == reach_beside(0.01, 0.0, 6.0) == 0.01
    pool, steps = pool_of(*synthetic()), 48
    few, every = (candidate("some", "greedy", names, 4, WEIGHTS) for names in ([NAMES[0]], list(NAMES)))
    own = [reach(item.blocks, 4, WEIGHTS, steps) for item in (few, every)]
    largest = [pool.evidence(item).spectrum.largest for item in (few, every)]
    found = [pool.evidence(item).reach(steps) for item in (few, every)]
    expected = [far * min(1.0, TOGETHER * largest[1] / each) for far, each in zip(own, largest, strict=True)]
    assert found == pytest.approx(expected)
    assert found[1] == pytest.approx(TOGETHER * own[1]) and found[0] > found[1]
    full = candidate("all", "greedy", list(NAMES), None, WEIGHTS)
    assert pool.evidence(full).reach(steps) == reach(full.blocks, None, WEIGHTS, steps)


def test_within_reach_no_run_moves_the_weights_by_more_than_their_norm() -> None:
    generator = np.random.default_rng(4)
    w = {name: generator.standard_normal((40, 30)) for name in ("a.weight", "b.weight")}
    norms = {name: float(np.linalg.norm(value)) for name, value in w.items()}
    weights = ParameterSizes(dict.fromkeys(w, (40, 30)), norms, dict.fromkeys(w, 40))
    rate, steps = reach(tuple(w), None, weights, 12), 12
    moved = np.concatenate([steps * rate * np.sign(value).ravel() for value in w.values()])
    assert np.linalg.norm(moved) == pytest.approx(np.hypot(*norms.values()))
    formula = LoRA(4, ALPHA)
    rate = reach(tuple(w), 4, weights, steps)
    signs = lambda *shape: steps * rate * generator.choice([-1.0, 1.0], shape)  # noqa: E731
    changes = [formula.scaling * signs(40, 4) @ (formula.matrix(name, 30) + signs(4, 30)) for name in w]
    assert np.linalg.norm(changes) == pytest.approx(np.hypot(*norms.values()), rel=0.15)
    assert reach((), 4, weights, steps) == np.inf
    assert reach(("a.weight",), None, ParameterSizes(weights.shapes, {"a.weight": 0.0}, {}), steps) == np.inf


def test_a_limited_rate_says_so() -> None:
    blocks, inputs = linear_problem(1, (1.0,))
    free = adam_rate(kernels_of_blocks(blocks), [8], inputs, PLANNED)
    assert free.learning_rate is not None
    limited = adam_rate(kernels_of_blocks(blocks), [8], inputs, PLANNED, free.learning_rate / 8)
    assert limited.learning_rate == max(rate for rate in RATES if rate <= free.learning_rate / 8)
    assert "the largest tried: a higher rate could leave what the kernel describes" in limited.words
    assert adam_rate(kernels_of_blocks(blocks), [8], inputs, PLANNED, 0.0).learning_rate == RATES[0]


def test_rates_from_which_nothing_is_better_than_the_start_are_named() -> None:
    blocks, inputs = linear_problem(1, (30.0,))
    found = adam_rate(kernels_of_blocks(blocks), [8], inputs, PLANNED)
    assert found.learning_rate is not None and found.learning_rate < found.worse_from < np.inf
    assert found.worse_from in RATES and found.batch == BATCH and found.steps == STEPS
    assert f"from {found.worse_from:.1e} on nothing is better" in found.words
    small = adam_rate([1e-6 * part for part in kernels_of_blocks(blocks)], [8], inputs, PLANNED)
    assert small.learning_rate == RATES[-1] and "the largest tried" in small.words
    scaled = adam_rate([100 * part for part in kernels_of_blocks(blocks)], [8], inputs, PLANNED)
    assert scaled.learning_rate == pytest.approx(
        found.learning_rate / 10
    )  # Adam's step does not grow with the gradient
