"""The loss of the best of many choices, without the luck of the choice: simulated, where the truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foretune.analysis.dynamics import FunctionSpace, GradientDescent, LogLoss, curves
from foretune.analysis.selection import FOLDS, REPEATS, CorrectedLoss, best_by_fold, corrected_loss, folds
from foretune.errors import UsageError
from tests.conftest import WORDS, many_rows, run_cli, write_jsonl

WORLDS = {
    "all alike": np.full(300, 0.5),
    "one is better": np.concatenate([[0.2], np.full(299, 0.5)]),
    "spread out": np.linspace(0.3, 0.9, 300),
    "only one": np.array([0.5]),
}
"""Name -> what each choice loses on new examples, on average."""


@pytest.mark.parametrize("name", WORLDS)
def test_the_corrected_loss_is_what_the_choice_loses_on_new_examples(name: str) -> None:
    means, generator = WORLDS[name], np.random.default_rng(0)
    y, truth, chosen, corrected = np.arange(32) % 2, [], [], []
    for _ in range(60):
        shared = generator.standard_normal(32)  # some examples are hard for every choice
        losses = means[:, None] + 0.4 * generator.standard_normal((len(means), 32)) + 0.4 * shared
        found = corrected_loss([best_by_fold(losses, folds(y))])
        truth.append(means[losses.mean(1).argmin()])
        chosen.append(found.chosen)
        corrected.append(found.corrected)
    naive, after = np.mean(np.subtract(chosen, truth)), np.mean(np.subtract(corrected, truth))
    assert abs(after) < 0.04
    if name == "only one":
        assert abs(naive) < 0.04
    if name in ("all alike", "spread out"):
        assert naive < -0.1 and abs(after) < 0.25 * abs(naive)


def test_parts_seen_one_after_the_other_are_the_whole() -> None:
    generator = np.random.default_rng(1)
    losses, counts = generator.random((40, 20)), folds(np.arange(20) % 4)
    whole, parts = best_by_fold(losses, counts), [best_by_fold(losses[:15], counts), best_by_fold(losses[15:], counts)]
    assert corrected_loss(parts) == corrected_loss([whole])
    assert whole.options == 40 and whole.chosen == pytest.approx(losses.mean(1).min())


def test_every_example_is_asked_once_a_repeat_and_never_chooses_for_itself() -> None:
    y = np.array([0] * 30 + [1] * 10)
    choosing = folds(y)
    assert choosing.shape == (FOLDS * REPEATS, 40) and (choosing == folds(y)).all()
    for repeat in (~choosing).reshape(REPEATS, FOLDS, 40):
        assert (repeat.sum(0) == 1).all() and (repeat.sum(1) == 4).all() and (repeat[:, :30].sum(1) == 3).all()
    assert folds(np.array([0, 0, 1])).shape == (3 * REPEATS, 3)  # fewer examples than folds
    assert len(folds(np.array([1]))) == 0


def test_choices_that_diverged_are_left_out_and_one_example_is_not_corrected() -> None:
    losses = np.array([[np.inf, 0.1], [0.4, 0.6]])
    found = corrected_loss([best_by_fold(losses, folds(np.array([0, 1])))])
    assert (
        found == CorrectedLoss(0.5, 0.5, 1) and found.optimism == 0
    )  # each label has one example: nothing is left out
    with pytest.raises(UsageError, match="None of 1 choices"):
        best_by_fold(losses[:1], folds(np.array([0, 1])))


def test_every_example_of_a_simulated_run_has_its_loss() -> None:
    generator = np.random.default_rng(2)
    x, y = generator.standard_normal((12, 4)), np.arange(12) % 2
    space = FunctionSpace((x @ x[:6].T)[:, None, :, None], np.zeros((12, 1)), y, LogLoss(), 4)
    for run in curves(space, GradientDescent(0.5), 6, 2, rates=(0.1, 0.5)):
        np.testing.assert_allclose(run.validation_each.mean(1), run.validation_loss)
        last = np.logaddexp(0, -(2 * y[6:10] - 1) * run.outputs[6:10, 0])
        np.testing.assert_allclose(run.validation_each[-1], last)


def test_a_forecast_says_what_to_expect_and_what_was_chosen(model_folder, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "reviews.jsonl", many_rows(60))
    result = run_cli("forecast", model_folder("bert-masked"), "reviews.jsonl", "--k", 8, "--test", 16, WORDS,
                     "--json", "f.json", "--details", cwd=tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "f.json").read_text())["forecast"]
    told, every = found["advice"]["expected_loss"], found["comparison"]["smallest_loss"]
    best = min(item["score"]["validation_loss"] for item in found["comparison"]["candidates"])
    assert every["chosen"] == pytest.approx(best) and every["options"] > 1000
    assert told["corrected"] >= told["chosen"] and every["corrected"] >= every["chosen"]
    text = " ".join(result.stdout.split())
    assert f"{told['corrected']:.3f} expected ({told['chosen']:.3f} as chosen" in text
    rate = found["recommended"]["adamw"]
    assert f"({rate['expected_loss']:.3f} nats expected)" in text
