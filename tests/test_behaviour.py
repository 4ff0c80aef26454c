"""Measures of fine-tuning against autograd, finite differences and cases computed by hand."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

import foretune as ft
from foretune.analysis.kernel_behaviour import (
    AnalogTest,
    FixedFeatures,
    KernelBehaviour,
    LinearizationTest,
    Thresholds,
    fixed_features,
)
from foretune.model.batches import outputs_and_features
from foretune.regime import head
from foretune.regime.change import parameter_change
from foretune.regime.linearization import linearization
from foretune.regime.measure import change_of_kernel
from foretune.regime.smoothness import ball_constants, segment_constants
from tests.cases import FALLBACKS, FAMILIES, ROWS, TASK, language_model, outputs_of
from tests.conftest import family
from tests.oracles import jacobian_kernel, jacobians

Y = np.array([1, 0, 1, 0, 1, 0])


def moved(lm: ft.LanguageModel, step: float, only: str = "", seed: int = 1) -> ft.LanguageModel:
    """A language model whose parameters stand a random step away."""
    module = copy.deepcopy(lm.module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if only in name:
                parameter += step * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return dataclasses.replace(lm, module=module)


def heads(step: float, difference: bool | None = False, scale: float = 1.0, n: int = 3):
    """A classification head on a tiny BERT, and the same with other weights in the body and the head."""
    lm = language_model(family("bert-encoder"))
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(n, 16, generator=generator, dtype=torch.float64)
    before = ft.HeadLogits(lm, n, weight=weight * scale, difference=difference)
    change = 0.3 * torch.randn(n, 16, generator=generator, dtype=torch.float64)
    return before, ft.HeadLogits(moved(lm, step), n, weight=weight + change, difference=difference)


@pytest.mark.parametrize("case", [*FAMILIES, *FALLBACKS], ids=str)
def test_the_linearization_is_the_jacobian_times_the_step(case) -> None:
    lm = language_model(case)
    before, after = outputs_of(lm), outputs_of(moved(lm, 0.02))
    found = linearization(before, after, ROWS[:3], batch=2)
    step = found.change.step
    slopes = jacobians(before, ROWS[:3])
    expected = sum(torch.einsum("ncp,p->nc", slopes[name], step[name].reshape(-1)) for name in step).numpy()
    scale = np.abs(expected).max()
    rounding = 1e-6 if case.tolerance > 1e-10 or case.name == "deberta" else 1e-9  # normalised in float32 inside
    assert np.abs(found.linear - found.pretrained - expected).max() < rounding * scale
    assert np.allclose(found.tuned, after.forward(after.batch(ROWS[:3])).numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["bert-masked", "gpt2-causal"])
def test_the_linearization_agrees_with_a_finite_difference(name) -> None:
    lm = language_model(family(name))
    before, after = outputs_of(lm), outputs_of(moved(lm, 0.01))
    found = linearization(before, after, ROWS)
    batch = before.batch(ROWS)
    with torch.no_grad():
        above, below = (before.logits(found.change.point(t), batch).numpy() for t in (1e-4, -1e-4))
    slope = (above - below) / 2e-4
    assert np.abs(found.linear - found.pretrained - slope).max() < 1e-6 * np.abs(slope).max()
    assert found.relative_gap < 1


def test_the_linearization_is_exact_where_only_the_head_moved() -> None:
    before, after = heads(0.0)
    found = linearization(before, after, ROWS)
    assert np.abs(found.linear - found.tuned).max() < 1e-12
    assert np.abs(found.tuned - found.pretrained).max() > 0.1
    assert found.relative_gap < 1e-12
    test = found.test(Y)
    assert test.linear == test.tuned


def test_the_distance_is_the_norm_of_all_steps() -> None:
    before, after = heads(0.1)
    change = parameter_change(before, after)
    old, new = before.parameters(), after.parameters()
    expected = math.sqrt(sum(float(((new[name] - old[name]) ** 2).sum()) for name in old))
    assert change.distance == pytest.approx(expected, rel=1e-12)
    assert change.norms["head.bias"] == 0
    assert all(torch.allclose(change.point(1.0)[name], new[name], atol=1e-14) for name in new)


def test_models_that_do_not_match_are_refused() -> None:
    bert = language_model(family("bert-masked"))
    with pytest.raises(ft.ForetuneError, match="one architecture"):
        parameter_change(outputs_of(bert), outputs_of(language_model(family("gpt2-causal"))))
    with pytest.raises(ft.ForetuneError, match="one architecture"):
        parameter_change(outputs_of(bert), outputs_of(bert, head=True))
    frozen = moved(bert, 0.0)
    for parameter in frozen.module.parameters():
        parameter.requires_grad_(False)
    frozen.module.bert.embeddings.word_embeddings.weight.requires_grad_(True)
    with pytest.raises(ft.ForetuneError, match="frozen"):
        parameter_change(outputs_of(frozen), outputs_of(moved(bert, 0.1)))
    with pytest.raises(ft.ForetuneError, match="at least one"):
        linearization(outputs_of(bert), outputs_of(bert), [])


def test_the_linearization_follows_adapters_from_their_start() -> None:
    import peft

    lm = language_model(family("llama-causal"))
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    module = peft.get_peft_model(copy.deepcopy(lm.module), config)
    start = dataclasses.replace(lm, module=module)
    change = parameter_change(ft.AnswerLogits(start, TASK), ft.AnswerLogits(moved(start, 0.1, only="lora_B"), TASK))
    assert change.norms
    assert all("lora_" in name for name in change.step)
    found = linearization(ft.AnswerLogits(start, TASK), ft.AnswerLogits(moved(start, 1e-3, "lora_B"), TASK), ROWS)
    assert found.relative_gap < 0.1


def test_the_gap_stays_below_the_bound_of_constants_that_cover_the_segment() -> None:
    for outputs in (heads(0.02), heads(0.2), heads(0.05, difference=True, n=2)):
        found = linearization(*outputs, ROWS)
        constants = segment_constants(*outputs, ROWS, points=8)
        bounds = constants.gap_bounds(found.change.distance)
        assert constants.values.shape == (8, 1, len(ROWS))
        assert (found.gap <= bounds).all()
        assert (bounds < 1e3 * found.gap).all()  # not an empty promise either


def test_lipschitz_constants_are_differences_of_jacobians() -> None:
    before, after = heads(0.1)
    constants = segment_constants(before, after, ROWS[:2], points=2)
    change = parameter_change(before, after)
    old, new = jacobians(before, ROWS[:2]), jacobians(after, ROWS[:2])
    squares = torch.stack([((new[name] - old[name]) ** 2).sum((1, 2)) for name in old]).sum(0)
    assert constants.values[-1, 0] == pytest.approx((squares.sqrt() / change.distance).numpy(), rel=1e-9)
    assert constants.radii == pytest.approx([change.distance / 2, change.distance])


def test_lipschitz_constants_over_random_directions() -> None:
    before = heads(0.0)[0]
    constants = ball_constants(before, ROWS[:2], [0.5, 0.1], draws=3, seed=4)
    assert constants.values.shape == (2, 3, 2)
    assert list(constants.radii) == [0.1, 0.5]
    assert (constants.average <= constants.largest).all()
    assert (constants.values > 0).all()
    assert np.array_equal(constants.values, ball_constants(before, ROWS[:2], [0.1, 0.5], draws=3, seed=4).values)
    only_head = ball_constants(before, ROWS[:2], [0.5], blocks="head.*")
    assert np.abs(only_head.values).max() < 1e-12  # linear in the head: its own gradient is the features
    with pytest.raises(ft.ForetuneError, match="outside of the radii"):
        constants.gap_bounds(0.6)
    with pytest.raises(ft.ForetuneError, match="positive radii"):
        ball_constants(before, ROWS[:2], [0.0])
    with pytest.raises(ft.ForetuneError, match="length 0"):
        segment_constants(before, before, ROWS[:2])


def test_the_share_recovered_and_when_it_holds() -> None:
    test = LinearizationTest(pretrained=0.6, linear=0.7, tuned=0.9)
    assert test.share == pytest.approx(1 / 3)
    assert test.holds(0.3)
    assert not test.holds(0.5)
    nothing = LinearizationTest(0.6, 0.7, 0.6)
    assert math.isnan(nothing.share)
    assert not nothing.holds(0.5)


def test_fixed_features_of_small_kernels() -> None:
    before = np.array([[[2.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]]).reshape(2, 2, 1, 2, 1)
    after = np.array([[[3.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 0.0]]]).reshape(2, 2, 1, 2, 1)
    found = fixed_features(["a", "b"], before, after)
    assert found.distance == pytest.approx((1 / 4 + 1 / 1) / 2)
    assert found.blocks == pytest.approx({"a": (1 / 2 + 1) / 2, "b": 0.0})
    assert found.frobenius == pytest.approx(math.sqrt(2) / math.sqrt(17))
    assert (found.compared, found.zeros) == (2, 2)
    assert found.holds(1.0)
    after[0, 0, 0, 1, 0] = 1.0  # where there was nothing
    assert fixed_features(["a", "b"], before, after).distance == math.inf
    with pytest.raises(ft.ForetuneError, match="same blocks"):
        fixed_features(["a"], before, after)
    with pytest.raises(ft.ForetuneError, match="zero"):
        fixed_features(["a", "b"], 0 * before, after)


PAPER = {  # Malladi et al. 2023, k = 16 then 64: (SGD-FT, K-SGD, Adam-FT, K-A-SignGD) in Table 4, (PT, Lin., FT at 64) in
    # Table 8, distance at 64 in Table 6; then the three rows of Table 1
    "SST-2": ((89.0, 88.3, 88.3, 88.3), (89.7, 89.2, 89.3, 88.9), (79.0, 88.6, 89.3), 0.41, ("yes", True, True)),
    "Subj": ((88.5, 88.6, 87.4, 88.6), (92.9, 91.4, 92.7, 91.8), (54.6, 78.9, 92.7), 0.60, ("yes", True, True)),
    "TREC": ((80.3, 56.0, 79.6, 22.7), (93.2, 77.8, 92.6, 21.0), (27.4, 31.2, 92.6), 1.59, ("no", False, False)),
    "AG News": ((84.2, 82.1, 84.0, 83.6), (86.8, 85.6, 86.8, 86.2), (68.7, 67.5, 86.8), 1.45, ("yes", False, False)),
    "SNLI": ((65.7, 57.8, 64.6, 54.9), (77.3, 65.5, 76.9, 66.8), (49.8, 56.9, 76.9), 0.65, ("no", False, True)),
    "QQP": ((62.1, 58.2, 61.8, 59.4), (69.2, 66.4, 69.8, 66.1), (42.7, 61.7, 72.7), 0.56, ("yes", True, True)),
}


@pytest.mark.parametrize("task", PAPER)
def test_verdicts_are_those_of_the_papers_table(task) -> None:
    few, many, (pretrained, linear, tuned), distance, answers = PAPER[task]
    analogs = [
        AnalogTest(kernel / 100, score / 100)
        for sgd, k_sgd, adam, k_sign in (few, many)
        for score, kernel in ((sgd, k_sgd), (adam, k_sign))
    ]
    fixed = FixedFeatures(distance, distance, {}, 1, 0)
    found = KernelBehaviour(tuple(analogs), LinearizationTest(pretrained / 100, linear / 100, tuned / 100), fixed)
    assert (found.solvable(0.05), found.linear, found.features_fixed) == answers
    assert found.verdict == ("yes" if answers == ("yes", True, True) else "no")
    assert found.summary["linearization"]["threshold"] == 0.5  # type: ignore[index]


def test_a_kernel_that_solves_one_setting_of_four_solves_in_part() -> None:
    good, bad = AnalogTest(0.55, 0.60), AnalogTest(0.5, 0.60)
    found = KernelBehaviour(
        (good, bad, bad, bad), LinearizationTest(0.1, 0.4, 0.5), FixedFeatures(0.5, 0.5, {}, 1, 0), Thresholds()
    )
    assert found.solvable(0.05) == "partly"
    assert found.solvable(0.10) == "yes"
    assert found.verdict == "partly"
    assert dataclasses.replace(found, analogs=()).verdict == "no"


@pytest.mark.parametrize("tuned", [0.5, 0.4])
def test_of_a_run_that_learnt_nothing_nothing_can_be_said(tuned: float) -> None:
    still = FixedFeatures(0.0, 0.0, {}, 1, 0)
    found = KernelBehaviour((AnalogTest(0.9, tuned),), LinearizationTest(0.5, 0.6, tuned), still)
    assert found.verdict == found.summary["kernel_behaviour"] == "cannot say"


@pytest.mark.parametrize("difference", [False, True])
def test_the_two_parts_sum_to_the_kernel_and_scale_with_the_classifier(difference) -> None:
    n = 2 if difference else 3
    kernel = ft.block_kernels(heads(0.0, difference, 1.0, n)[0], ROWS[:3])
    split = head.kernel_split(kernel)
    assert np.allclose(split.total, kernel.total(), rtol=1e-12)
    longer = head.kernel_split(ft.block_kernels(heads(0.0, difference, 4.0, n)[0], ROWS[:3]))
    assert np.allclose(longer.pretrain_effective, split.pretrain_effective, rtol=1e-9)
    assert np.allclose(longer.ft_effective, 16 * split.ft_effective, rtol=1e-9, atol=1e-9)
    norms, longer_norms = (
        [np.linalg.norm(part) for part in (each.pretrain_effective, each.ft_effective)] for each in (split, longer)
    )
    assert longer_norms == pytest.approx([norms[0], 16 * norms[1]])
    assert {name: values.frobenius for name, values in split.spectra.items()} == pytest.approx(
        {
            "pretrain_effective": norms[0],
            "ft_effective": norms[1],
            "total": np.linalg.norm(kernel.total()),
        }
    )
    hidden = outputs_and_features(heads(0.0, difference, 1.0, n)[0], ROWS[:3]).features
    inner = np.einsum("ij,ab->iajb", hidden @ hidden.T + 1, 2 * np.eye(1) if difference else np.eye(n))
    assert np.allclose(split.pretrain_effective, inner)


def test_the_two_parts_with_adapters() -> None:
    outputs = heads(0.0)[0]
    whole = ft.block_kernels(outputs, ROWS[:3])
    adapters = ft.block_kernels(outputs, ROWS[:3], formula=ft.LoRA(rank=4))
    split = head.adapter_split(whole.select("head.*"), adapters)
    assert np.array_equal(split.pretrain_effective, head.kernel_split(whole).pretrain_effective)
    assert np.allclose(split.ft_effective, adapters.total())
    longer = heads(0.0, scale=2.0)[0]
    scaled = head.adapter_split(
        ft.block_kernels(longer, ROWS[:3], blocks="head.*"), ft.block_kernels(longer, ROWS[:3], formula=ft.LoRA(rank=4))
    )
    assert np.allclose(scaled.ft_effective, 4 * split.ft_effective, rtol=1e-9, atol=1e-9)
    with pytest.raises(ft.ForetuneError, match="no block of a head"):
        head.kernel_split(adapters)
    with pytest.raises(ft.ForetuneError, match="same examples"):
        head.adapter_split(whole, ft.block_kernels(outputs, ROWS[:2], formula=ft.LoRA(rank=4)))
    with pytest.raises(ft.ForetuneError, match="only blocks of the head"):
        head.kernel_split(whole.select("head.*"))


def test_feature_change_of_models_and_row_norms() -> None:
    before, after = heads(0.3)
    found = head.change_of_features(before, after, ROWS, Y)
    assert found.difference > 0
    assert found.cosine < 1
    assert head.change_of_features(before, before, ROWS, Y).difference == 0
    assert head.head_row_norms(before) == pytest.approx(before.parameters()["head.weight"].norm(dim=1).numpy())
    with pytest.raises(ft.ForetuneError, match="HeadLogits"):
        head.head_row_norms(outputs_of(language_model(family("bert-masked"))))


@pytest.mark.parametrize("difference", [False, True])
def test_slopes_along_row_norms_are_those_of_autograd(difference) -> None:
    outputs = heads(0.0, difference, 1.0, 2)[0]
    weight = outputs.parameters()["head.weight"].detach()
    norms = weight.norm(dim=1, keepdim=True).requires_grad_()
    logits = outputs.logits({"head.weight": norms * weight / weight.norm(dim=1, keepdim=True)}, outputs.batch(ROWS))
    both = torch.cat([torch.zeros_like(logits), logits], 1) if difference else logits
    loss = torch.nn.functional.cross_entropy(both, torch.tensor(Y), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, norms)
    found = head.head_norm_slopes(outputs, ROWS, Y)
    assert found == pytest.approx(gradient[:, 0].numpy(), rel=1e-9)
    assert np.array_equal(np.sign(found), np.sign(gradient[:, 0].numpy()))


def test_the_verdict_of_a_run_rests_on_its_kernels() -> None:
    before, after = heads(0.05, difference=True, n=2)
    kernels = [ft.block_kernels(outputs, ROWS) for outputs in (before, after)]
    fixed = change_of_kernel(*kernels)
    old, new = (sum(jacobian_kernel(outputs, ROWS).values()) for outputs in (before, after))
    assert fixed.distance == pytest.approx(float(np.mean(np.abs(new - old) / np.abs(old))), rel=1e-6)
    assert set(fixed.blocks) == set(before.parameters())
    analogs = (AnalogTest(0.8, 0.82, "sgd, k=3"),)
    found = KernelBehaviour(analogs, linearization(before, after, ROWS).test(Y, "accuracy"), fixed)
    assert found.summary["solve_on_grid"]["answer"] == "yes"  # type: ignore[index]
    unmoved = change_of_kernel(kernels[0], kernels[0])
    assert unmoved.distance == 0
    same = KernelBehaviour(analogs, linearization(before, before, ROWS).test(Y, "accuracy"), unmoved)
    assert same.verdict == "cannot say"  # nothing was gained
    kernel = ft.block_kernels(before, ROWS[:2])
    with pytest.raises(ft.ForetuneError, match="same order"):
        change_of_kernel(kernel, kernel.select("head.*"))
