"""The gain of one set of predictions over another: rows that turn decide, and McNemar's exact test agrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score, matthews_corrcoef

from foretune.analysis.calibration import loss_gained
from foretune.analysis.scores import gained

LABELS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


@given(LABELS)
@settings(deadline=None)
def test_an_interval_agrees_with_mcnemars_exact_test(rows: list[tuple[int, int, int]]) -> None:
    y, before, after = np.array(rows).T
    found = gained(y, before, after, "accuracy")
    right, wrong = (after == y) & (before != y), (after != y) & (before == y)
    assert found.examples == len(y)
    assert found.value == pytest.approx((right.sum() - wrong.sum()) / len(y))
    assert -1 <= found.low <= found.value <= found.high <= 1
    if turned := int(right.sum() + wrong.sum()):
        p = binomtest(int(right.sum()), turned).pvalue
        excludes = found.low > 0 or found.high < 0
        assert excludes <= (p < 0.15) and (p < 0.01) <= excludes


@pytest.mark.parametrize(
    ("gain", "loss", "n"), [(0.02, 0.02, 96), (0.15, 0.05, 96), (0.01, 0.0, 576), (0.08, 0.02, 576)]
)
def test_an_interval_covers_the_gain(gain: float, loss: float, n: int) -> None:
    generator, held = np.random.default_rng(0), []
    for _ in range(400):
        y, turn = np.zeros(n, dtype=int), generator.random(n)
        before = (np.arange(n) % 2 == 0).astype(int)  # half of them are wrong
        after = np.where(before == 1, (turn >= 2 * gain).astype(int), (turn < 2 * loss).astype(int))
        found = gained(y, before, after, "accuracy")
        held.append(found.low <= gain - loss <= found.high)
    assert np.mean(held) >= 0.92


@given(LABELS, st.sampled_from(["accuracy", "f1", "matthews"]))
@settings(deadline=None, max_examples=30)
def test_what_is_gained_one_way_is_lost_the_other(rows: list[tuple[int, int, int]], metric: str) -> None:
    y, before, after = np.array(rows).T % 2
    there, back = gained(y, before, after, metric), gained(y, after, before, metric)
    ends = {(y == before).mean(), (y != before).mean(), (y == after).mean(), (y != after).mean()}
    assume(not {abs(end) for each in (there, back) for end in (each.low, each.high)} & ends)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low), abs=1e-12)


def test_without_a_row_that_turns_no_more_can_be_gained_than_was_wrong() -> None:
    y = np.arange(300) % 2
    assert gained(y, y, y, "accuracy").high == 0
    half = gained(y, 0 * y, 0 * y, "accuracy")
    assert (half.value, half.low, half.high) == pytest.approx((0, -0.0092, 0.0092), abs=1e-4)
    assert gained(y[:20], 0 * y[:20], 0 * y[:20], "accuracy").high == pytest.approx(0.126, abs=1e-3)


@pytest.mark.parametrize(("metric", "of"), [("f1", f1_score), ("matthews", matthews_corrcoef)])
def test_other_metrics_are_those_of_scikit_learn_and_their_interval_covers(metric: str, of: object) -> None:
    held, truth = [], None
    for seed in range(40):
        generator = np.random.default_rng(seed)
        y = generator.integers(0, 2, 300)
        before, after = (np.where(generator.random(300) < right, y, 1 - y) for right in (0.6, 0.75))
        found = gained(y, before, after, metric)
        assert found.value == pytest.approx(of(y, after) - of(y, before))  # pyright: ignore[reportCallIssue]
        truth = {"f1": 0.15, "matthews": 0.3}[metric]
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.85


OUTPUTS = st.lists(st.tuples(st.integers(0, 2), *[st.floats(-5, 5)] * 3), min_size=3, max_size=40)


@given(OUTPUTS, st.floats(0.05, 20), st.sampled_from([2, 3]))
@settings(deadline=None)
def test_outputs_that_only_become_surer_or_less_sure_gain_no_loss(
    rows: list[tuple[int, float, float, float]], factor: float, classes: int
) -> None:
    y, outputs = np.array([row[0] for row in rows]), np.array([row[1:] for row in rows])
    before = outputs if classes == 3 else outputs[:, :1]
    y = y if classes == 3 else y % 2
    found = loss_gained(y, before, factor * before)
    assert found.value <= 1e-6 and found.examples == len(y)
    assert found.low <= found.value <= found.high


def test_an_interval_of_the_loss_covers_its_fall_and_is_more_often_above_zero_than_that_of_the_score() -> None:
    n, held, found, scores = 200, [], [], []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        truth = generator.normal(size=(n, 2)) * [1.5, 1.0]
        y = (generator.random(n) < 1 / (1 + np.exp(-truth.sum(1)))).astype(int)
        before, after = truth[:, :1], truth.sum(1)[:, None]
        each = loss_gained(y, before, after)
        found.append(each.value)
        held.append((each.low, each.high))
        scores.append(gained(y, (before[:, 0] > 0).astype(int), (after[:, 0] > 0).astype(int), "accuracy").low > 0)
    assert np.mean([low <= np.mean(found) <= high for low, high in held]) >= 0.9
    assert np.mean([low > 0 for low, _ in held]) > max(0.7, np.mean(scores) + 0.2)
