"""Laws of fine-tuning: what moves, where to, how far, and that a killed run ends as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import foretune as ft
from foretune.analysis.losses import targets
from foretune.errors import UsageError
from foretune.finetune.history import Evaluation, best_of_history
from foretune.finetune.losses import CrossEntropy, Loss, SquaredLoss
from foretune.finetune.methods import (
    METHODS,
    FullTuning,
    Linearized,
    LinearProbing,
    LoRATuning,
    Method,
    ProbedFirst,
    method_named,
)
from foretune.finetune.optimisers import SGDOptimiser, SignGDOptimiser
from foretune.finetune.run import Run, fine_tuned
from foretune.finetune.sign_descent import SignOptimizer
from foretune.finetune.training import Proximal, Training
from foretune.finetune.tuned import Tuned
from foretune.finetune.watch import pull
from foretune.model.batches import outputs_and_features
from tests.cases import TASK, language_model, outputs_of
from tests.conftest import family, many_rows

LLAMA, GPT, BERT, MASKED = (
    family(name) for name in ("llama-tied-causal", "gpt2-causal", "bert-encoder", "bert-masked")
)
SPLIT = TASK.few_shot(many_rows(200), k=4, test=12)
SHORT = Training(SGDOptimiser(0.1), steps=4, evaluate_every=2)


def run_of(outputs, method: Method, training: Training = SHORT, **options: Any) -> Run:
    return fine_tuned(outputs, TASK, SPLIT, method, training, **options)


def values(outputs) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in outputs.parameters().items()}


def moved(run: Run) -> set[str]:
    return {n for n, before in run.parameters_before.items() if not torch.equal(before, run.parameters_after[n])}


def chi(loss: Loss, f: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dl/df of one example each, by autograd."""
    leaf = torch.tensor(f, requires_grad=True)
    (loss.mean(leaf, torch.tensor(y)) * len(y)).backward()
    assert leaf.grad is not None
    return leaf.grad.numpy()


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredLoss()], ids=lambda loss: loss.name)
@pytest.mark.parametrize(
    ("model", "difference", "method", "formula"),
    [
        (MASKED, False, FullTuning(), ft.SGD()),
        (GPT, True, FullTuning(), ft.SGD()),
        (BERT, False, FullTuning(), ft.SGD()),
        (LLAMA, True, LoRATuning(rank=2), ft.LoRA(rank=2)),
        (
            GPT,
            False,
            LoRATuning(rank=3, targets=("c_attn",), rslora=True),
            ft.LoRA(3, targets=("c_attn",), rslora=True),
        ),
    ],
    ids=lambda value: getattr(value, "label", str(value)),
)
def test_linearized_training_is_kernel_gradient_descent(model, difference, method, formula, loss) -> None:
    outputs = outputs_of(language_model(model), difference=difference)
    rate, steps = 0.02, 6
    training = Training(SGDOptimiser(rate), loss, batch_size=None, steps=steps, evaluate_every=1)
    run = run_of(outputs, Linearized(method), training)

    examples = [*SPLIT.train, *SPLIT.validation, *SPLIT.test]
    n, m = len(SPLIT.train), len(SPLIT.train) + len(SPLIT.validation)
    kernel = ft.block_kernels(outputs, examples, SPLIT.train, formula).total()
    y = np.array(TASK.targets(examples))
    f = np.concatenate([outputs.forward(outputs.batch([example])).numpy() for example in examples])
    curve, states = [], []
    for _ in range(steps + 1):
        states.append(f)
        curve.append(
            [loss.mean(torch.tensor(f[part]), torch.tensor(y[part])).item() for part in (slice(n), slice(n, m))]
        )
        f = f - rate / n * np.einsum("iajb,jb->ia", kernel, chi(loss, f[:n], y[:n]))
    np.testing.assert_allclose(run.losses, [train for train, _ in curve[:-1]], rtol=1e-6)
    np.testing.assert_allclose([line.validation_loss for line in run.history], [v for _, v in curve], rtol=1e-6)
    np.testing.assert_allclose(run.test_logits, states[run.best.step][m:], rtol=1e-5, atol=1e-7)
    assert len(set(run.losses)) == steps


def test_linearization_is_exact_on_a_model_that_is_linear_in_what_is_trained() -> None:
    outputs = outputs_of(language_model(BERT), difference=False)
    runs = [run_of(outputs, m, replace(SHORT, dropout=False)) for m in (LinearProbing(), Linearized(LinearProbing()))]
    np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=1e-10)
    np.testing.assert_allclose(runs[0].test_logits, runs[1].test_logits, rtol=1e-8)


def test_small_steps_of_the_network_are_those_of_its_linearization() -> None:
    outputs = outputs_of(language_model(LLAMA))
    tiny = replace(SHORT, optimiser=SGDOptimiser(1e-5))
    network, linear = run_of(outputs, FullTuning(), tiny), run_of(outputs, Linearized(), tiny)
    change = max(network.losses) - min(network.losses)
    np.testing.assert_allclose(network.losses, linear.losses, rtol=0, atol=1e-3 * change)


def drawn(seed: int | None = None) -> tuple[float, float]:
    """The next number of each global generator, seeded first if asked."""
    if seed is not None:
        torch.manual_seed(seed), np.random.seed(seed)
    return torch.rand(1).item(), np.random.rand()


HEAD = {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_exactly_what_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(BERT, torch.float32))
    every = set(outputs.parameters())
    seen: list[set[str]] = []
    original = transformers.Trainer.train

    def train(self, *args: Any, **kwargs: Any) -> Any:
        wanting = {n.removeprefix("model.") for n, p in self.model.module.named_parameters() if p.requires_grad}
        seen.append(wanting)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "train", train)
    run = run_of(outputs, method_named(name))
    biases = {n for n, kind in outputs.kinds().items() if kind == "bias"}
    weights = [n for n, kind in outputs.kinds().items() if kind == "linear"]
    adapters = {
        f"base_model.model.{n.removesuffix('.weight')}.lora_{side}.default.weight" for n in weights for side in "AB"
    }
    expected = {
        "ft": every,
        "lora": adapters | HEAD,
        "lp": HEAD,
        "lp-ft": every,
        "lp-lora": adapters | HEAD,
        "bitfit": biases | HEAD,
        "linearized": every,
    }[name]
    assert seen[-1] == set(run.parameters_before) == set(run.parameters_after) == expected
    if isinstance(METHODS[name], ProbedFirst):
        assert seen[0] == HEAD
    assert run.history[-1].distance > 0
    assert moved(run)


def test_layers_targets_and_filters_choose_what_is_trained() -> None:
    answer = outputs_of(language_model(LLAMA, torch.float32))
    method = LoRATuning(rank=2, targets=("q_proj", "v_proj"), layers=(1,))
    names = set(run_of(answer, method).parameters_after)
    assert len(names) == 4
    assert all(".layers.1.self_attn." in name for name in names)
    only = run_of(answer, FullTuning(ft.ParameterFilter(layers=(0,), embeddings=False)))
    assert only.parameters_after
    assert all(".layers.0." in name for name in only.parameters_after)
    head = outputs_of(language_model(family("llama-causal"), torch.float32), head=True)
    assert "lm_head.weight" in head.parameters()
    assert set(run_of(head, FullTuning()).parameters_after) == {*head.body(), *HEAD}


def test_the_users_model_and_random_numbers_stay_as_they_are() -> None:
    for outputs in (outputs_of(language_model(LLAMA, torch.float32)), outputs_of(language_model(BERT, torch.float32))):
        before, modes = values(outputs), outputs.lm.module.training
        expected = drawn(seed=5)
        torch.manual_seed(5), np.random.seed(5)
        for method in (FullTuning(), LoRATuning(), Linearized()):
            run_of(outputs, method)
        assert drawn() == expected
        assert outputs.lm.module.training is modes
        assert all(torch.equal(before[name], tensor) for name, tensor in outputs.parameters().items())
        assert not any("lora" in name for name, _ in outputs.lm.module.named_parameters())


@pytest.mark.parametrize("name", ["ft", "lora", "bitfit", "lp-lora"])
def test_the_outputs_of_a_run_are_the_best_checkpoint(name: str) -> None:
    outputs = outputs_of(language_model(BERT, torch.float32))
    run = run_of(outputs, METHODS[name])
    logits = np.concatenate([run.outputs.forward(run.outputs.batch([example])).numpy() for example in SPLIT.test])
    np.testing.assert_allclose(logits, run.test_logits, atol=1e-5)
    kernel = ft.block_kernels(run.outputs, SPLIT.train[:2])
    assert set(run.parameters_after) <= set(kernel.names)
    best = max((line.validation_score, -line.validation_loss) for line in run.history)
    assert (run.best.validation_score, -run.best.validation_loss) == best
    assert run.predictions.shape == (12,)
    shared = dict(run.outputs.lm.module.named_parameters())
    for parameter, tensor in run.parameters_after.items():
        if parameter in shared:
            assert torch.equal(shared[parameter], tensor)


def test_full_batch_micro_batches_make_the_same_steps() -> None:
    outputs = outputs_of(language_model(LLAMA))
    whole = replace(SHORT, batch_size=None)
    runs = [run_of(outputs, FullTuning(), replace(whole, micro_batches=parts)) for parts in (1, 4)]
    np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=1e-6)


@pytest.mark.parametrize("selective", [True, False])
@pytest.mark.parametrize("strength", [0.5, 5.0, 40.0])
def test_proximal_training_stays_within_its_bound(strength: float, selective: bool) -> None:
    outputs = outputs_of(language_model(LLAMA))
    base = Training(SGDOptimiser(0.02), batch_size=None, steps=30, evaluate_every=1)
    run = run_of(outputs, FullTuning(), replace(base, proximal=Proximal(strength, selective)))
    bound = run.history[0].bound
    assert bound == pytest.approx((2 * run.losses[0] / strength) ** 0.5)
    assert all(line.distance <= bound for line in run.history)
    assert run.history[0].distance == 0 < run.history[-1].distance
    pulled = [line.pulled for line in run.history[1:]]
    assert set(pulled) == ({1.0} if not selective else {0.0, 1.0} if strength == 40 else set(pulled))


def test_without_the_pull_training_goes_farther_than_its_bound() -> None:
    outputs = outputs_of(language_model(LLAMA))
    base = Training(SGDOptimiser(0.02), batch_size=None, steps=30, evaluate_every=10)
    free, held = (run_of(outputs, FullTuning(), replace(base, proximal=p)) for p in (None, Proximal(40.0)))
    assert free.history[-1].bound is None
    assert held.history[-1].distance < held.history[-1].bound < free.history[-1].distance


def test_the_selective_pull_acts_only_where_the_objective_grows_away_from_the_start() -> None:
    outputs = METHODS["lp"].start(outputs_of(language_model(BERT)))
    tuned = Tuned(outputs, ["head.weight"], CrossEntropy(), dropout=False)
    weight = tuned.trained["head.weight"]
    for slope, acts in ((1.0, True), (-0.04, True), (-0.06, False)):  # against 0.5 * 0.1
        with torch.no_grad():
            weight.copy_(tuned.start["head.weight"] + 0.1)
        weight.grad = torch.full_like(weight, slope)
        assert pull(tuned, Proximal(0.5)) is acts
        torch.testing.assert_close(weight.grad, torch.full_like(weight, slope + 0.05 * acts))
        assert pull(tuned, Proximal(0.5, selective=False))
        torch.testing.assert_close(weight.grad, torch.full_like(weight, slope + 0.05 * acts + 0.05))


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredLoss()], ids=lambda loss: loss.name)
def test_the_validation_loss_is_the_mean_over_examples_also_where_the_last_batch_is_short(loss: Loss) -> None:
    """32 examples make a batch of an evaluation: a mean over batches would weigh the 8 left over as much as those."""
    split = TASK.few_shot(many_rows(200), k=20, test=4)
    split = replace(split, validation=split.validation[:40])
    outputs = outputs_of(language_model(BERT), difference=len(TASK.labels) == 2)
    run = fine_tuned(outputs, TASK, split, FullTuning(), replace(SHORT, loss=loss))
    y = torch.tensor(TASK.targets(split.validation))
    rows = torch.from_numpy(outputs_and_features(outputs, split.validation).outputs)
    means = [loss.mean(rows[part], y[part]).item() for part in (slice(None), slice(32), slice(32, None))]
    assert len(y) == 40 and abs(means[0] - np.mean(means[1:])) > 1e-6 * means[0]
    assert run.history[0].validation_loss == pytest.approx(means[0], rel=1e-9)


def test_sign_descent_moves_every_entry_by_the_learning_rate() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([3.0, -1e-9, 0.0])
    SignOptimizer([parameter], 0.5).step()
    assert parameter.tolist() == [-0.5, 0.5, 0.0]
    run = run_of(outputs_of(language_model(BERT)), LinearProbing(), Training(SignGDOptimiser(0.01), steps=1))
    change = run.history[-1].distance
    size = sum(p.numel() for p in run.parameters_after.values())
    assert change == pytest.approx(0.01 * size**0.5)


def test_losses_of_the_difference_form() -> None:
    f, y = torch.tensor([[0.3], [-2.0]]), torch.tensor([1, 0])
    both = torch.cat([torch.zeros(2, 1), f], 1)
    torch.testing.assert_close(CrossEntropy().mean(f, y), CrossEntropy().mean(both, y))
    assert SquaredLoss().mean(f, y).item() == pytest.approx(((0.3 - 1) ** 2 + (-2 + 1) ** 2) / 4)
    np.testing.assert_allclose(chi(SquaredLoss(), both.numpy(), y.numpy()), both.numpy() - targets(y.numpy(), 2))


def test_the_best_checkpoint_is_that_of_the_highest_score_or_of_the_lowest_loss() -> None:
    history = [
        Evaluation(step, loss, score, (), 1.0, 0.0, None, None, (), 0.0)
        for step, loss, score in ((0, 0.1, 1.0), (1, 0.7, 0.8), (2, 0.4, 0.6), (3, 0.4, 0.6), (4, 0.6, 0.8))
    ]
    assert best_of_history(history).step == 4
    assert best_of_history(history, "loss").step == 2
    with pytest.raises(UsageError, match="best_by"):
        Training(best_by="accuracy")  # pyright: ignore[reportArgumentType]
