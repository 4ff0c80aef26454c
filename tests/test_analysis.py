"""Spectra, ridge risk and scores against slow or closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import foretune as ft
from foretune.analysis.groups import closing_weights, layers, module_types
from foretune.analysis.probe import head_probe, linear_probe
from foretune.analysis.scores import best_threshold, chance, majority, score, scored
from foretune.analysis.spectrum import spectrum, stable_learning_rate

SEEDS = st.integers(0, 2**32 - 1)


def random_kernel(seed: int, size: int, rank: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(size, rank))
    return factor @ factor.T


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, size=st.integers(1, 12), rank=st.integers(1, 12), sigma=st.floats(1e-3, 1e3))
def test_ridge_risk_is_the_solution_and_lies_within_its_bounds(seed, size, rank, sigma) -> None:
    matrix = random_kernel(seed, size, rank)
    y = np.random.default_rng(seed + 1).choice([-1.0, 1.0], size)
    eigen = spectrum(matrix)
    risk = eigen.ridge_risk(y, sigma)
    assert risk == pytest.approx(sigma * y @ np.linalg.solve(matrix + sigma * np.eye(size), y), rel=1e-8)
    slack = 1 + 1e-9
    assert sigma * (y @ y) / (sigma + eigen.largest) <= risk * slack
    assert risk <= sigma * (y @ y) / (sigma + eigen.smallest) * slack
    assert eigen.condition_number(sigma) >= 1
    assert 1 - 1e-9 <= eigen.effective_rank <= min(size, rank) + 1e-9
    assert eigen.rank <= min(size, rank)


def test_a_spectrum_refuses_what_is_no_kernel() -> None:
    with pytest.raises(ft.ForetuneError, match=r"\(2, 3\)"):
        spectrum(np.zeros((2, 3)))
    with pytest.raises(ft.ForetuneError, match="symmetric"):
        spectrum(np.array([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ft.ForetuneError, match="undefined"):
        spectrum(np.array([[np.nan]]))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 8), binary=st.booleans())
def test_gradient_descent_is_stable_below_the_learning_rate_and_not_above(seed, n, binary) -> None:
    matrix = random_kernel(seed, n, n)
    rate = stable_learning_rate(spectrum(matrix).largest, n, 1 if binary else 3).squared
    start = np.linalg.eigh(matrix)[1][:, -1]  # the residual along the steepest direction

    def after(learning_rate: float) -> float:
        residual = start.copy()
        for _ in range(200):
            residual = residual - learning_rate / n * matrix @ residual
        return float(np.abs(residual).max())

    assert after(0.99 * rate) < np.abs(start).max()
    assert after(1.01 * rate) > np.abs(start).max()


def test_scores_carry_intervals_that_hold_them() -> None:
    y, predictions = np.array([0, 1, 1, 0, 1, 1]), np.array([0, 1, 0, 0, 1, 1])
    accuracy, f1 = scored(y, predictions, "accuracy"), scored(y, predictions, "f1")
    assert accuracy.value == pytest.approx(5 / 6)
    assert f1.value == pytest.approx(2 * 3 / (2 * 3 + 1))
    for item in (accuracy, f1):
        assert 0 <= item.low <= item.value <= item.high <= 1


@pytest.mark.parametrize("right", [0, 9, 40, 64])
def test_what_chance_does_to_a_score_is_half_its_interval_and_shrinks_with_more_examples(right: int) -> None:
    y = np.arange(64) % 2
    predictions = np.where(np.arange(64) < right, y, 1 - y)
    for metric in ("accuracy", "f1"):
        found = scored(y, predictions, metric)
        assert chance(found, metric, 64, 64) == pytest.approx((found.high - found.low) / 2, abs=1e-6)
    many = scored(np.tile(y, 5), np.tile(predictions, 5), "accuracy")
    assert chance(scored(y, predictions, "accuracy"), "accuracy", 64, 320) == pytest.approx(
        (many.high - many.low) / 2, abs=1e-6
    )
    assert chance(found, "f1", 64, 256) == pytest.approx((found.high - found.low) / 4)


def test_the_threshold_maximises_the_validation_score() -> None:
    f = np.array([[3.0], [4.0], [5.0], [6.0]])
    assert best_threshold(f, np.array([0, 0, 1, 1]), "accuracy") == pytest.approx(4.5)
    assert list(majority(np.array([1, 1, 0]))) == [1, 1, 1]


def test_the_linear_probe_finds_a_linear_rule() -> None:
    generator = np.random.default_rng(0)
    features = [generator.normal(size=(60, 4)) for _ in range(3)]
    y = [(part[:, 1] > 0).astype(int) for part in features]
    probe = linear_probe(features[0], y[0], features[1], y[1], "accuracy")
    assert score(y[2], probe.predicted(features[2]), "accuracy") > 0.85
    dead = [np.column_stack([part, 1 + 1e-31 * part[:, 0]]) for part in features]
    for fitted in (linear_probe, head_probe):
        probe = fitted(dead[0], y[0], dead[1], y[1], "accuracy")
        assert np.abs(probe.weight).max() < 100
        assert score(y[2], probe.predicted(dead[2]), "accuracy") > 0.85
    with pytest.raises(ft.ForetuneError, match="class 1 has none"):
        linear_probe(features[0], np.zeros(60, dtype=int), features[1], y[1], "accuracy")


@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_is_logistic_regression_on_standardised_features(classes: int) -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(3.0, 5.0, size=(80, 4))
    y = (np.abs(features[:, 0]) * 10).astype(int) % classes
    probe = linear_probe(features, y, features, y, "accuracy", strengths=(0.1,))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(features, y)
    f = probe.outputs(features)
    np.testing.assert_allclose(softmax(f, axis=1), pipeline.predict_proba(features), atol=1e-4)


def test_names_fall_into_layers_and_module_types() -> None:
    names = (
        ["embed.weight"] + [f"model.layers.{i}.attn.{m}.weight" for i in range(11) for m in ("q", "k")] + ["head.bias"]
    )
    assert list(layers(names)) == [f"model.layers.{i}" for i in range(11)]
    types = module_types(names)
    assert list(types) == ["embed", "attn.q", "attn.k", "head"]
    assert len(types["attn.q"]) == 11


@pytest.mark.parametrize(
    ("inside", "closing"),
    [
        (("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
          "intermediate.dense", "output.dense"), {"attention.output.dense", "output.dense"}),
        (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
          "mlp.down_proj"), {"self_attn.o_proj", "mlp.down_proj"}),
        (("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), {"attn.c_proj", "mlp.c_proj"}),
        (("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj"),
         {"self_attn.o_proj", "mlp.down_proj"}),
        (("mixer.in_proj", "mixer.x_proj", "mixer.out_proj"), {"mixer.out_proj"}),
    ],
    ids=["bert", "llama", "gpt2", "phi3", "mamba"],
)  # fmt: skip
def test_each_attention_and_feed_forward_part_has_one_closing_layer(inside: tuple[str, ...], closing: set[str]) -> None:
    names = [f"attention_model.layers.{i}.{name}.weight" for i in range(3) for name in inside]
    found = closing_weights([*names, "transform.dense.weight"])
    assert found == [name for name in names if name.split(".", 3)[3].removesuffix(".weight") in closing]


def test_where_there_are_no_layers_all_weights_close() -> None:
    assert closing_weights(["first.weight", "second.weight"]) == ["first.weight", "second.weight"]
