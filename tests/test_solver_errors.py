"""What solvers refuse, and what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import foretune as ft
from foretune.analysis.solvers import (
    SOLVERS,
    AsymmetricKernel,
    KernelLogistic,
    KernelRidge,
    KernelSVC,
    KernelSVR,
    named_solver,
    solve_on_grid,
)
from tests.test_solvers import INF, asymmetric_split, matrices, split


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_refuse_what_is_no_kernel_and_say_what_came(name: str) -> None:
    data = split(8, 1)
    train, cross = matrices(data)
    solver = named_solver(name)
    holed = np.where(np.arange(64).reshape(8, 8) == 5, np.nan, train)
    for kernel, y, f0, message in [
        (train[:, :7], data.y_train, None, r"square, got shape \(8, 7\)"),
        (holed, data.y_train, None, r"\(8, 8\): 1 entries are undefined"),
        (train, data.y_train[:7], None, r"\(8, 8\) does not fit 7 labels"),
        (data.train, data.y_train, None, r"\(8, 1, 8, 1\).*sample_major"),
        (train, np.array(list("abcabcab")), None, "3 different labels"),
        (train, data.y_train, np.zeros((8, 2)), r"f0 have shape \(8, 2\); expected \(8, 1\)"),
    ]:
        with pytest.raises(ft.ForetuneError, match=message):
            solver.fit(kernel, y, f0)
    with pytest.raises(NotFittedError):
        solver.predict(cross)
    solver.fit(train, data.y_train)
    with pytest.raises(ft.ForetuneError, match=r"\(13, 7\) does not fit 8 training examples"):
        solver.predict(cross[:, :7])
    with pytest.raises(ft.ForetuneError, match="undefined or infinite"):
        solver.predict(np.where(cross > 0, INF, cross))
    with pytest.raises(ft.ForetuneError, match=r"f0_scale is 10.*f0_scale=inf"):
        clone(solver).set_params(f0_scale=10.0).fit(train, data.y_train).predict(cross)
    with pytest.raises(ft.ForetuneError, match="strength is -1"):
        solver.set_params(strength=-1).fit(train, data.y_train)


def test_solvers_refuse_hyperparameters_that_mean_nothing() -> None:
    data = split(9, 1)
    train, cross = matrices(data)
    for solver, message in [
        (KernelRidge(f0_scale=0.0), "f0_scale is 0"),
        (KernelRidge(target_scale=0.0), "target_scale is 0"),
        (KernelRidge(rounding=2.0), "rounding is 2"),
        (AsymmetricKernel(gamma=0.0), "gamma is 0"),
        (AsymmetricKernel(mix=2.0), "mix is 2"),
        (KernelSVC(C=0.0), "C is 0"),
        (KernelSVR(epsilon=-1.0), "epsilon is -1"),
        (KernelLogistic(max_iter=0), "max_iter is 0"),
    ]:
        with pytest.raises(ft.ForetuneError, match=message):
            solver.fit(train, data.y_train)
    with pytest.raises(ft.ForetuneError, match="no reversed kernel"):
        AsymmetricKernel(mix=0.5).fit(train, data.y_train).predict(cross)
    with pytest.raises(ft.ForetuneError, match="expected 13"):
        AsymmetricKernel(mix=0.5).fit(train, data.y_train).predict(cross, reversed=cross[:3])
    with pytest.raises(ft.ForetuneError, match="both"):
        KernelSVC().fit(train, 0 * data.y_train)
    with pytest.raises(ft.ForetuneError, match="Did you mean 'strength'"):
        solve_on_grid(KernelRidge(), data, grid={"strenght": [1.0]})
    with pytest.raises(ft.ForetuneError, match="Did you mean 'ridge'"):
        named_solver("rigde")
    with pytest.raises(ft.ForetuneError, match="symmetric"):
        KernelRidge().fit(matrices(asymmetric_split(0, 1))[0], data.y_train)
    with pytest.raises(ft.ForetuneError, match="class numbers below 2"):
        solve_on_grid(KernelRidge(), replace(data, y_evaluation=data.y_evaluation + 1))
