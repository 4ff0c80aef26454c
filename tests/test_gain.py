"""The gain of one set of predictions over another: rows that turn decide, and McNemar's exact test agrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score, matthews_corrcoef

from foretune.analysis.scores import gained

LABELS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


@given(LABELS)
@settings(deadline=None)
def test_an_interval_excludes_zero_exactly_where_mcnemars_test_rejects(rows: list[tuple[int, int, int]]) -> None:
    y, before, after = np.array(rows).T
    found = gained(y, before, after, "accuracy")
    right, wrong = (after == y) & (before != y), (after != y) & (before == y)
    assert found.examples == len(y)
    assert found.value == pytest.approx((right.sum() - wrong.sum()) / len(y))
    assert -1 <= found.low <= found.value <= found.high <= 1
    if turned := int(right.sum() + wrong.sum()):
        p = binomtest(int(right.sum()), turned).pvalue
        assert (found.low > 0 or found.high < 0) == (p < 0.05)


@given(LABELS, st.sampled_from(["accuracy", "f1", "matthews"]))
@settings(deadline=None, max_examples=30)
def test_what_is_gained_one_way_is_lost_the_other(rows: list[tuple[int, int, int]], metric: str) -> None:
    y, before, after = np.array(rows).T % 2
    there, back = gained(y, before, after, metric), gained(y, after, before, metric)
    assume(metric != "accuracy" or (before != after).any())
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low), abs=1e-12)


def test_without_a_row_that_turns_no_more_can_be_gained_than_was_wrong() -> None:
    y = np.arange(300) % 2
    assert gained(y, y, y, "accuracy").high == 0
    half = gained(y, 0 * y, 0 * y, "accuracy")
    assert (half.value, half.low, half.high) == (0, -0.01, 0.01)
    assert gained(y[:20], 0 * y[:20], 0 * y[:20], "accuracy").high == pytest.approx(0.15)


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
