"""Kernel solvers against slow closed forms, literal published systems, generic minimisers and scikit-learn itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sklearn
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC, SVR

import foretune as ft
from foretune.analysis.losses import targets
from foretune.analysis.scores import predicted_classes, score
from foretune.analysis.solvers import (
    SOLVERS,
    AsymmetricKernel,
    CrossValidation,
    JointData,
    KernelLogistic,
    KernelRidge,
    KernelSolver,
    KernelSVC,
    KernelSVR,
    joint_data,
    named_solver,
    sample_major,
    solve_on_grid,
)
from foretune.analysis.solvers.logistic import loss_and_derivative

SEEDS = st.integers(0, 2**32 - 1)
OUTPUTS = st.sampled_from([1, 2, 3])
GAMMAS = st.sampled_from([0.01, 0.1, 1.0, 10.0])
INF = float("inf")


def split(seed: int, c: int, n: int = 8, v: int = 6, m: int = 7, rank: int = 200) -> JointData:
    """A random kernel with pretrained outputs and balanced random labels."""
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=((n + v + m) * c, rank))
    kernel = (factor @ factor.T / rank).reshape(n + v + m, c, n + v + m, c)
    y = np.concatenate([generator.permutation(np.arange(size) % max(2, c)) for size in (n, v, m)])
    f0 = 3 * generator.normal(size=(n + v + m, c))
    return JointData(kernel[:n, :, :n], kernel[n:, :, :n], f0[:n], f0[n:], y[:n], y[n:], v)


def asymmetric_split(seed: int, c: int, n: int = 8, v: int = 6, m: int = 7) -> JointData:
    """The same with K[i, j] = <phi_s(x_i), phi_t(x_j)>, phi_t the signs of phi_s."""
    data = split(seed, c, n, v, m)
    phi = np.random.default_rng(seed).normal(size=((n + v + m) * c, 5 * n * c))
    kernel = (phi @ np.sign(phi).T / phi.shape[1]).reshape(n + v + m, c, n + v + m, c)
    exchanged = kernel[:n, :, n:].transpose(2, 3, 0, 1)
    return replace(data, train=kernel[:n, :, :n], evaluation=kernel[n:, :, :n], reversed=exchanged)


def matrices(data: JointData) -> tuple[np.ndarray, np.ndarray]:
    k = data.f0_train.size
    return data.train.reshape(k, k), data.evaluation.reshape(-1, k)


def fitted(solver: KernelSolver, data: JointData) -> tuple[KernelSolver, np.ndarray]:
    """The solver fitted to the training examples, and its outputs on the evaluation examples."""
    train, cross = matrices(data)
    solver.fit(train, data.y_train, data.f0_train)
    return solver, solver.outputs(cross, data.f0_evaluation)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, c=OUTPUTS, strength=st.sampled_from([0.0, 1e-3, 0.1, 1.0]), scale=st.sampled_from([10.0, 1e3, INF]))
def test_ridge_is_the_linear_solve(seed, c, strength, scale) -> None:
    data = split(seed, c)
    train, cross = matrices(data)
    solver, f = fitted(KernelRidge(strength, scale, target_scale=2.0), data)
    matrix = train + strength * np.linalg.norm(train, 2) * np.eye(len(train))
    wanted = (2 * targets(data.y_train, c) - data.f0_train / scale).reshape(-1)
    alpha = np.linalg.solve(matrix, wanted)
    np.testing.assert_allclose(solver.dual_coef_.reshape(-1), alpha, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(f, (cross @ alpha).reshape(-1, c) + data.f0_evaluation / scale, rtol=1e-6, atol=1e-8)
    assert solver.residual_ < 1e-8
    assert solver.condition_number_ == pytest.approx(np.linalg.cond(matrix), rel=1e-6)
    assert solver.rank_ == np.linalg.matrix_rank(train)
    assert solver.operator_norm_ == pytest.approx(np.linalg.norm(train, 2))


@pytest.mark.parametrize("c", [1, 3])
def test_the_search_gives_every_grid_point_what_its_own_linear_solve_gives(c: int) -> None:
    data = split(5, c)
    result = solve_on_grid(KernelRidge(), data)
    assert len(result.grid) == 25
    train, cross = matrices(data)
    norm, v = np.linalg.norm(train, 2), data.validation
    for point in result.grid:
        scale, strength = point.parameters["f0_scale"], point.parameters["strength"]
        wanted = (targets(data.y_train, c) - data.f0_train / scale).reshape(-1)
        alpha = np.linalg.solve(train + strength * norm * np.eye(len(train)), wanted)
        f = (cross @ alpha).reshape(-1, c) + data.f0_evaluation / scale
        y = data.y_evaluation
        assert point.test == pytest.approx(score(y[v:], predicted_classes(f)[v:], "accuracy"))
        assert point.validation_loss == pytest.approx(float(((f[:v] - targets(y, c)[:v]) ** 2).mean()), rel=1e-4)
    best = max(result.grid, key=lambda point: (point.validation, -point.validation_loss))
    assert (result.chosen.validation, result.chosen.validation_loss) == (best.validation, best.validation_loss)
    assert result.predictions.shape == (7,)
    np.testing.assert_array_equal(result.probabilities.argmax(1), result.predictions)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, c=OUTPUTS, strength=st.sampled_from([0.0, 0.01, 1.0]), scale=st.sampled_from([10.0, INF]))
def test_the_published_preset_is_its_literal_definition(seed, c, strength, scale) -> None:
    data = split(seed, c)
    solver, f = fitted(named_solver("published").set_params(strength=strength, f0_scale=scale), data)
    joint, cross = matrices(data)  # (n * c, n * c), as the published trainer hands over
    ridge = strength * np.linalg.svd(joint, compute_uv=False).max()
    wanted = (targets(data.y_train, c) - data.f0_train / scale).reshape(-1)
    alpha = np.linalg.lstsq(joint + ridge * np.eye(len(wanted)), wanted, rcond=None)[0]
    np.testing.assert_allclose(solver.dual_coef_.reshape(-1), alpha, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(f, (cross @ alpha).reshape(-1, c) + data.f0_evaluation / scale, rtol=1e-6, atol=1e-8)


def test_the_published_preset_fits_single_precision_noise_and_ridge_does_not() -> None:
    data = split(3, 1)
    train, _ = matrices(data)
    values, vectors = np.linalg.eigh(train)
    values[0] = 1e-9 * values[-1]
    noisy = (vectors * values) @ vectors.T
    sizes = [np.abs(named_solver(name).set_params(strength=0.0).fit(noisy, data.y_train).dual_coef_).max()
             for name in ("ridge", "published")]  # fmt: skip
    assert sizes[1] > 100 * sizes[0]


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, c=OUTPUTS, strength=st.sampled_from([0.01, 0.1, 1.0]), scale=st.sampled_from([10.0, INF]))
def test_logistic_regression_is_what_a_generic_minimiser_finds(seed, c, strength, scale) -> None:
    data = split(seed, c)
    train, cross = matrices(data)
    solver, f = fitted(KernelLogistic(strength, scale, tolerance=1e-7), data)
    ridge, offset = strength * np.linalg.norm(train, 2), data.f0_train / scale

    def objective(alpha: np.ndarray) -> float:
        at = (train @ alpha).reshape(-1, c) + offset
        logits = np.hstack([np.zeros_like(at), at]) if c == 1 else at
        log_sum = np.log(np.exp(logits).sum(1))
        return float((log_sum - logits[np.arange(len(at)), data.y_train]).mean() + ridge / 2 * alpha @ train @ alpha)

    generic = minimize(objective, np.zeros(len(train)), method="BFGS", options={"gtol": 1e-7})
    alpha = solver.dual_coef_.reshape(-1)
    assert objective(alpha) <= generic.fun + 1e-9
    reached = (cross @ generic.x).reshape(-1, c) + data.f0_evaluation / scale
    np.testing.assert_allclose(f, reached, atol=1e-3)
    assert solver.converged_ and solver.residual_ <= 1e-7
    # the optimality condition that the module states
    at = (train @ alpha).reshape(-1, c) + offset
    np.testing.assert_allclose(
        ridge * train @ alpha, -train @ loss_and_derivative(at, data.y_train)[1].reshape(-1), atol=1e-5
    )


def test_warm_starts_along_the_grid_end_where_cold_starts_do() -> None:
    data = split(1, 3)
    warm = solve_on_grid(KernelLogistic(), data, grid={"f0_scale": [10.0, INF], "strength": [1.0, 0.1, 0.01]})
    for point in warm.grid:
        _, f = fitted(KernelLogistic(**point.parameters), data)
        loss = loss_and_derivative(f[: data.validation], data.y_evaluation[: data.validation])[0]
        assert point.validation_loss == pytest.approx(loss, abs=1e-4)
        assert point.converged


def test_separable_examples_without_regularisation_stay_finite_and_say_whether_they_converged() -> None:
    data = split(2, 1)
    train = matrices(data)[0]
    solver = KernelLogistic(strength=0.0).fit(train, data.y_train)
    assert solver.score(train, data.y_train) == 1
    assert np.isfinite(solver.dual_coef_).all()
    assert solver.converged_ == (solver.residual_ <= solver.tolerance)
    with pytest.warns(ConvergenceWarning, match="stopped after 2 steps"):
        early = KernelLogistic(strength=0.0, max_iter=2).fit(train, data.y_train)
    assert not early.converged_
    with pytest.warns(ConvergenceWarning):
        assert not solve_on_grid(KernelLogistic(max_iter=2), data, grid={"strength": [0.0]}).chosen.converged


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, gamma=GAMMAS, strength=st.sampled_from([0.0, 0.1]), mix=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_asymmetric_solver_is_the_doubled_system_of_he_et_al(seed, gamma, strength, mix) -> None:
    data = asymmetric_split(seed, 1)
    train, cross = matrices(data)
    n, y = len(train), targets(data.y_train, 1)[:, 0]
    h = np.diag(y) @ (train + strength * np.linalg.norm(train, 2) * np.eye(n)) @ np.diag(y)
    system = np.block([[np.eye(n) / gamma, h], [h.T, np.eye(n) / gamma]])
    assume(np.linalg.cond(system) < 1e7)
    alpha, beta = np.split(np.linalg.solve(system, np.ones(2 * n)), 2)
    back = data.reversed.reshape(cross.shape)
    solver = AsymmetricKernel(gamma, strength, mix=mix).fit(train, data.y_train)
    expected = mix * cross @ (beta * y) + (1 - mix) * back @ (alpha * y)
    np.testing.assert_allclose(solver.outputs(cross, reversed=back)[:, 0], expected, rtol=1e-6, atol=1e-6)
    assert solver.condition_number_ == pytest.approx(np.linalg.cond(system), rel=1e-6)
    assert solver.residual_ < 1e-8
    np.testing.assert_array_equal(solver.predict(cross, reversed=back), (expected > 0).astype(int))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, c=OUTPUTS, scale=st.sampled_from([10.0, INF]), gamma=st.sampled_from([0.1, 10.0]))
def test_a_symmetric_kernel_makes_both_discriminants_ridge_regression(seed, c, scale, gamma) -> None:
    data = split(seed, c)
    train, cross = matrices(data)
    solver = AsymmetricKernel(gamma, f0_scale=scale).fit(train, data.y_train, data.f0_train)
    np.testing.assert_allclose(solver.dual_coef_, solver.dual_coef_reversed_, rtol=1e-5, atol=1e-7)
    ridge = KernelRidge(1 / gamma / np.linalg.norm(train, 2), scale)
    expected = fitted(ridge, data)[1]
    np.testing.assert_allclose(solver.outputs(cross, data.f0_evaluation), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("c", [1, 3])
def test_one_decomposition_serves_the_asymmetric_grid(c: int) -> None:
    data = asymmetric_split(4, c)
    train, cross = matrices(data)
    result = solve_on_grid(AsymmetricKernel(mix=0.5), data)
    assert len(result.grid) == 100
    v, back = data.validation, data.reversed.reshape(cross.shape)
    for point in result.grid[::7]:
        solver = AsymmetricKernel(mix=0.5, **point.parameters).fit(train, data.y_train, data.f0_train)
        f = solver.outputs(cross, data.f0_evaluation, back)[:v]
        assert point.validation_loss == pytest.approx(solver.loss(f, data.y_evaluation[:v]))


@pytest.mark.parametrize("c", [1, 2, 3])
def test_support_vector_machines_are_scikit_learns_on_the_regularised_kernel(c: int) -> None:
    data = split(7, c)
    train, cross = matrices(data)
    matrix = train + 0.1 * np.linalg.norm(train, 2) * np.eye(len(train))
    wanted = targets(data.y_train, c)
    signs = (wanted if c == 1 else 2 * wanted - 1).reshape(-1)
    machine = SVC(kernel="precomputed", C=2.0, tol=1e-6).fit(matrix, signs)
    solver, f = fitted(KernelSVC(0.1, C=2.0, tolerance=1e-6), data)
    np.testing.assert_allclose(f.reshape(-1), machine.decision_function(cross), atol=1e-10)
    assert abs(solver.residual_) < 1e-4
    regression = SVR(kernel="precomputed", C=2.0, epsilon=0.05, tol=1e-6)
    regression.fit(matrix, (wanted - data.f0_train / 10).reshape(-1))
    solver, f = fitted(KernelSVR(0.1, 10.0, C=2.0, epsilon=0.05, tolerance=1e-6), data)
    expected = regression.predict(cross).reshape(-1, c) + data.f0_evaluation / 10
    np.testing.assert_allclose(f, expected, atol=1e-10)
    assert abs(solver.residual_) < 1e-4


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("c", [1, 2, 3])
def test_every_solver_takes_every_form_and_gives_probabilities(name: str, c: int) -> None:
    data = split(3, c, n=9)
    train, cross = matrices(data)
    y = np.array(["bad", "good", "ugly"])[data.y_train]
    solver = named_solver(name).set_params(f0_scale=10.0)
    twin = clone(solver).fit(sample_major(data.train), y, data.f0_train)
    assert twin.get_params() == solver.get_params()
    solver.fit(train, y, data.f0_train)
    assert set(solver.classes_) == set(y)
    np.testing.assert_array_equal(solver.dual_coef_, twin.dual_coef_)
    probabilities = solver.predict_proba(cross, data.f0_evaluation)
    np.testing.assert_array_equal(probabilities, twin.predict_proba(sample_major(data.evaluation), data.f0_evaluation))
    np.testing.assert_allclose(probabilities.sum(1), 1)
    predictions = solver.predict(cross, data.f0_evaluation)
    np.testing.assert_array_equal(solver.classes_[probabilities.argmax(1)], predictions)
    decisions = solver.decision_function(cross, data.f0_evaluation)
    assert decisions.shape == ((13, 3) if c == 3 else (13,))
    if c < 3:
        np.testing.assert_array_equal(solver.classes_[(decisions > 0).astype(int)], predictions)
    assert solver.dual_coef_.shape == (9, solver.n_outputs_) == (9, c)
    assert solver.score(cross, predictions, data.f0_evaluation) == 1
    assert np.isfinite([solver.residual_, solver.condition_number_, solver.operator_norm_]).all()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("c", [1, 3])
def test_scikit_learn_cross_validates_every_solver(name: str, c: int) -> None:
    data, grid = split(11, c, n=12), {"strength": [0.01, 1.0]}
    kernel = matrices(data)[0] if c == 1 else sample_major(data.train)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(named_solver(name), grid, cv=folds, error_score="raise").fit(kernel, data.y_train)
    own = solve_on_grid(named_solver(name), data, grid, CrossValidation(folds=3, seed=0))
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], [point.validation for point in own.grid])
    assert search.best_estimator_.predict(kernel).shape == (12,)


def test_scikit_learn_carries_pretrained_outputs_through_cross_validation() -> None:
    data = split(12, 3, n=12)
    with sklearn.config_context(enable_metadata_routing=True):
        solver = KernelRidge(f0_scale=10.0).set_fit_request(f0=True).set_score_request(f0=True)
        search = GridSearchCV(solver, {"f0_scale": [10.0, INF]}, cv=StratifiedKFold(3), error_score="raise")
        search.fit(sample_major(data.train), data.y_train, f0=data.f0_train)
    scores = []
    for kept, left in StratifiedKFold(3).split(data.y_train, data.y_train):
        kernel = sample_major(data.train)
        solver.fit(kernel[np.ix_(kept, kept)], data.y_train[kept], data.f0_train[kept])
        scores.append(solver.score(kernel[np.ix_(left, kept)], data.y_train[left], data.f0_train[left]))
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(np.mean(scores))


def test_cross_validation_reverses_asymmetric_kernels_and_needs_no_validation_examples() -> None:
    data = asymmetric_split(13, 1, n=12)
    empty = replace(data, validation=0, metric="f1")
    grid = {"gamma": [0.1, 1.0], "mix": [0.0, 0.5], "f0_scale": [10.0]}
    result = solve_on_grid(AsymmetricKernel(), empty, grid, CrossValidation(folds=3))
    losses, train = np.zeros(len(result.grid)), matrices(data)[0]
    for kept, left in StratifiedKFold(3, shuffle=True, random_state=0).split(train, data.y_train):
        for number, point in enumerate(result.grid):
            solver = AsymmetricKernel(**point.parameters)
            solver.fit(train[np.ix_(kept, kept)], data.y_train[kept], data.f0_train[kept])
            back = train[np.ix_(kept, left)].T
            f = solver.outputs(train[np.ix_(left, kept)], data.f0_train[left], back)
            losses[number] += solver.loss(f, data.y_train[left]) * len(left) / 12
    np.testing.assert_allclose([point.validation_loss for point in result.grid], losses)
    assert result.predictions.shape == (13,)
    with pytest.raises(ft.ForetuneError, match="CrossValidation"):
        solve_on_grid(AsymmetricKernel(), empty)
    with pytest.raises(ft.ForetuneError, match=r"folds=7.* 6 training example"):
        solve_on_grid(AsymmetricKernel(), data, choose=CrossValidation(folds=7))


def test_equal_scores_go_to_the_smaller_loss_and_equal_losses_to_the_stronger_regularisation() -> None:
    data = split(0, 1)
    zeros = replace(data, evaluation=0 * data.evaluation, f0_evaluation=0 * data.f0_evaluation)
    assert solve_on_grid(KernelRidge(), zeros).chosen.parameters["strength"] == 1
    assert solve_on_grid(AsymmetricKernel(), zeros).chosen.parameters["gamma"] == 0.01
    assert solve_on_grid(KernelLogistic(), zeros).chosen.parameters["strength"] == 1


@pytest.mark.parametrize("name", SOLVERS)
def test_duplicate_examples_without_ridge_have_finite_solutions(name: str) -> None:
    data = split(6, 1, n=8)
    train, cross = (np.concatenate([part, part], -1) for part in matrices(data))
    train = np.concatenate([train, train])
    y = np.concatenate([data.y_train, data.y_train])
    solver = named_solver(name).set_params(strength=0.0).fit(train, y)
    assert solver.rank_ == 8
    assert np.isfinite(solver.outputs(cross)).all()
    if name in {"ridge", "published"}:
        np.testing.assert_allclose(solver.dual_coef_[:8], solver.dual_coef_[8:], atol=1e-8)
        np.testing.assert_allclose(solver.outputs(cross), fitted(KernelRidge(0.0), data)[1], atol=1e-6)
        assert solver.residual_ < 1e-6
        contradiction = solver.fit(train, np.concatenate([data.y_train, 1 - data.y_train]))
        assert contradiction.residual_ == pytest.approx(1)


@pytest.mark.parametrize("exponent", [-300, -150, 150, 300])
def test_kernel_logistic_regression_does_not_depend_on_the_scale_of_the_kernel(exponent: int) -> None:
    generator = np.random.default_rng(0)
    y, phi = np.arange(40) % 2, generator.normal(size=(40, 1, 4))
    phi[..., 0] += (2 * y - 1)[:, None]
    joint, f0 = np.einsum("iap,jbp->iajb", phi[:16], phi), generator.normal(size=(40, 1))
    plain, other = (
        solve_on_grid(named_solver("logistic"), joint_data(joint * factor, f0, y, 8, "accuracy"))
        for factor in (1.0, 10.0**exponent)
    )
    assert plain.predictions.tolist() == other.predictions.tolist()
    assert 0 < plain.predictions.mean() < 1
