"""Rules that look at no data, one epoch of everything, and what a score knows beside them."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from foretune.analysis.rank_statistics import median_partial_correlation, partial_rank_correlation
from foretune.candidates.pool import pool_of
from foretune.candidates.rules import SHORT, adapts_everything, feed_forward_share, rate_rules, shallowness
from foretune.candidates.scores import DATA_FREE, SCORES
from foretune.errors import UsageError
from foretune.experiment.outcome import Outcome, PointCurve
from foretune.finetune.optimisers import AdamWOptimiser, ProdigyOptimiser
from foretune.finetune.training import Training
from foretune.page import Page
from foretune.pages.json import write_page_json
from foretune.store.json import plain
from foretune.validation.data import validation_data
from foretune.validation.elsewhere import placed, prior_from, require_other_tasks
from foretune.validation.page import validation_page
from foretune.validation.rankings import EXHAUSTIVE, LOSS, rankings
from foretune.validation.rates import rules_table
from foretune.validation.rivals import ONE_EPOCH, OTHER_TASKS, PRIOR, PRIOR_ELSEWHERE, best_rule, rivals
from foretune.validation.runs import Measured, ValidationStudy, candidates_of, measured_candidates
from tests.conftest import assert_refused, run_cli
from tests.test_validate_rates import RATES, outcome, predicted
from tests.validations import small_validation

K = 12
GRID = tuple(
    Training(optimiser=AdamWOptimiser(rate), batch_size=4, epochs=2, evaluate_every=2, best_by="loss")
    for rate in (1e-3, 1e-2)
)


@pytest.fixture(scope="module")
def study(bert_folder: Path, mr_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ValidationStudy:
    return replace(
        small_validation(bert_folder, mr_data, tmp_path_factory.mktemp("cells"), (13,), GRID), candidates=None
    )


def cell(task: str, losses: Sequence[float], score: Sequence[float] = (), seed: int = 13) -> Measured:
    """A cell of candidates that reach these losses, halfway after an epoch of two steps."""
    outcomes = tuple(
        Outcome(
            test_loss=loss,
            test_score=1 - loss,
            validation_loss=loss,
            start_validation_loss=1.0,
            points=(PointCurve(1e-3, 4, (0, 2, 4), (1.0, 0.5 + loss / 2, loss), (0.0, 1.0, 3.0)),),
        )
        for loss in losses
    )
    k = len(losses)
    flat = dict.fromkeys(SCORES, (0.0,) * k)
    scores = {**flat, "shallow layers first": tuple(-float(place) for place in range(k)),
              "exact risk": tuple(score) or (0.0,) * k}  # fmt: skip
    names = tuple(f"layer {place}" for place in range(k))
    runs = (predicted(1e-3, (1e-3,)),) * k
    return Measured(task, seed, "accuracy", 1.0, 0.5, names, outcomes, scores, runs, (1.0,) * k, epoch=2)


# --- partial correlation


def test_a_partial_correlation_is_that_of_residuals_of_ranks() -> None:
    generator = np.random.default_rng(0)
    a, b, given = (generator.permutation(20).astype(float) for _ in range(3))
    b = b + 0.5 * given
    ranks = [rankdata(side) for side in (a, b, given)]
    design = np.stack([np.ones(20), ranks[2]], axis=1)
    left = [rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0] for rank in ranks[:2]]
    assert float(partial_rank_correlation(a, b, given)) == pytest.approx(float(np.corrcoef(*left)[0, 1]))
    assert np.isnan(partial_rank_correlation(a, b, a))  # nothing is left of a
    assert float(partial_rank_correlation(a, b, np.ones(20))) == pytest.approx(
        float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    )


def test_a_score_that_only_repeats_the_rule_has_no_partial_correlation() -> None:
    generator = np.random.default_rng(1)
    rule = np.tile(np.arange(K, dtype=float), (40, 1))
    results = rule + 4 * generator.standard_normal((40, K))
    echo, knows = rule + 4 * generator.standard_normal((40, K)), results + 4 * generator.standard_normal((40, K))
    assert abs(median_partial_correlation(echo, results, rule).value) < 0.2
    assert median_partial_correlation(knows, results, rule).value > 0.4


# --- rules


def test_rules_read_layers_kinds_and_extent_off_the_names(study: ValidationStudy) -> None:
    made = study.cell("mr", 13)
    pool, known = pool_of(made, 2), {item.label: item for item in candidates_of(made, 2)}
    seen = {label: pool.evidence(item) for label, item in known.items()}
    depths = {label: -shallowness(item) for label, item in seen.items()}
    assert depths["layer encoder.layer.0"] == 0 and depths["layer encoder.layer.1"] == 1
    assert depths["all linear"] == depths["attention.self.query"] == 0.5  # types of module are tied
    assert feed_forward_share(seen["attention.self.query"]) == 0 == feed_forward_share(seen["attention.output.dense"])
    assert feed_forward_share(seen["output.dense"]) == 1 and 0 < feed_forward_share(seen["all linear"]) < 1
    assert {label for label, item in seen.items() if adapts_everything(item)} == {"all linear"}


def test_rules_for_rates_have_the_constants_of_their_sources(study: ValidationStudy) -> None:
    made = study.cell("mr", 13)
    pool = pool_of(made, 2)
    every = {item.label: pool.evidence(item) for item in candidates_of(made, 2)}
    rules, whole, query = rate_rules(2), every["all linear"], every["attention.self.query"]
    assert {rule(item, 200) for item in every.values() for name, rule in rules.items() if "always" in name} == {2e-4}
    assert rules["ten times full tuning's"](whole, SHORT) == pytest.approx(5e-4)
    assert rules["ten times full tuning's"](whole, SHORT - 1) == pytest.approx(7.5e-4)
    width = pool.sizes.shapes["encoder.layer.0.attention.self.query.weight"][1]
    assert rules["rank and width"](query, 10) == pytest.approx(2e-4 * np.sqrt(4096 / width))
    assert rules["1 / lambda_max"](query, 10) / 2e-4 == pytest.approx(pool.largest_of_all(2) / query.spectrum.largest)
    assert list(rate_rules(None)) == ["2e-05 always"]


def test_the_best_rule_is_known_afterwards_and_other_tasks_do_not_see_the_own() -> None:
    up = np.linspace(0.1, 0.9, K)
    cells = [cell("mr", up), cell("subj", up), cell("trec", up[::-1])]
    found = {each.score: each for each in rivals(cells, LOSS)}
    assert found[OTHER_TASKS].by_task["trec"] == pytest.approx(-1)  # the others say the opposite
    assert found[PRIOR].by_task["mr"] != found[PRIOR].by_task["trec"]
    best = best_rule(cells, LOSS)
    assert best is not None and best.name == "shallow layers first"
    alone = {each.score for each in rivals(cells[:1], LOSS)}
    assert alone == {ONE_EPOCH, EXHAUSTIVE}
    flat = replace(cells[0], scores=dict.fromkeys(SCORES, (0.0,) * K))
    assert best_rule([flat], LOSS) is None


def test_a_prior_from_other_studies_carries_over_to_another_number_of_candidates_and_does_not_see_the_own_task() -> (
    None
):
    up = np.linspace(0.1, 0.9, K)
    record = plain({"cells": [cell("mr", up), cell("subj", up), cell("trec", up[::-1])]})
    other, here = placed(record), [cell("mr", np.linspace(0.2, 0.4, 5)), cell("trec", np.linspace(0.2, 0.4, 5))]
    found = prior_from(other, here, LOSS)
    assert np.abs(found[0]).max() < 1e-9  # subj and trec say the opposite of each other
    assert np.all(np.diff(found[1]) < 0)  # mr and subj say that shallow layers are best; the own task said the opposite
    ranked = {each.score: each for each in rivals(here, LOSS, studies=other)}
    assert ranked[PRIOR_ELSEWHERE].by_task["trec"] == pytest.approx(1)
    assert PRIOR_ELSEWHERE not in {each.score for each in rivals(here, LOSS)}
    lost = (Outcome(failure="out of memory"), *cell("mr", up).outcomes[1:])
    failed = plain({"cells": [replace(cell("mr", up), outcomes=lost)]})
    (one,) = placed(failed)
    assert one.ranks["test loss"].argmin() == one.ranks["test score"].argmin() == 0
    with pytest.raises(UsageError, match="needs a study of another task"):
        require_other_tasks((one,), ("subj", "mr"))
    require_other_tasks(other, ("mr", "sst2"))


def test_a_prior_of_something_else_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    page = Page("a title", (), (), kind="solve", data={})
    write_page_json(tmp_path / "solve.json", page, "0")
    write_page_json(
        tmp_path / "mr.json", replace(page, kind="validate", data={"cells": [cell("mr", [0.1, 0.2, 0.3])]}), "0"
    )
    (tmp_path / "notes.json").write_text("{}")
    for prior, said in {
        "nowhere": "nowhere does not exist",
        "notes.json": "notes.json is not a result of foretune",
        "solve.json": "--prior solve.json holds a result of `foretune solve`; expected one of `foretune validate`",
        "mr.json": "A prior for mr needs a study of another task",
    }.items():
        assert_refused(run_cli("validate", "no-model", "--tasks", "mr", "--prior", prior, cwd=tmp_path), 2, said)
    assert not (tmp_path / "runs").exists()


def test_a_page_names_the_prior_from_other_studies(study: ValidationStudy) -> None:
    cells = [cell("mr", np.linspace(0.1, 0.9, K)), cell("mr", np.linspace(0.1, 0.9, K), seed=21)]
    other = placed(plain({"cells": [cell("subj", np.linspace(0.1, 0.9, 4))]}))
    page = validation_page(validation_data(cells, {}, other), replace(study, grid=study.grid[:1]))
    row = next(row for row in page.tables[0].texts if row[0] == PRIOR_ELSEWHERE)
    assert row[1].startswith("1.00") and any(note.startswith(PRIOR_ELSEWHERE) for note in page.notes)


def test_one_epoch_of_all_ranks_by_its_losses_and_says_its_cost(study: ValidationStudy) -> None:
    losses = np.random.default_rng(2).permutation(np.linspace(0.1, 0.9, K))
    cells = [cell("mr", losses, score=-losses), cell("mr", losses, score=-losses, seed=21)]
    data = validation_data(cells, {})
    found = {each.score: each for each in (*data.rankings["test loss"], *data.rivals["test loss"])}
    assert found[ONE_EPOCH].median == pytest.approx(1) and found[ONE_EPOCH].regret == 0
    assert data.best_rules["test loss"] == "shallow layers first"
    assert np.isnan(found["shallow layers first"].partial) and found["exact risk"].partial == pytest.approx(1)
    page = validation_page(data, replace(study, grid=study.grid[:1]))
    names = [row[0] for row in page.tables[0].texts]
    assert f"{ONE_EPOCH} ({K:.0f} s)" in names  # one second each
    assert any(line.startswith("Without data, by test loss: shallow layers first has") for line in page.findings)
    never = [replace(each, epoch=1) for each in cells]  # the first evaluation comes later
    assert ONE_EPOCH not in {each.score for each in rivals(never, LOSS)}


def test_rules_that_look_at_no_data_are_scores_of_every_study() -> None:
    assert set(DATA_FREE) == {"parameter count", "shallow layers first", "feed-forward first", "all linear"}
    found = {each.score: each for each in rankings([cell("mr", np.linspace(0.1, 0.9, K))], LOSS)}
    assert found["shallow layers first"].median == pytest.approx(1)


# --- rates


def test_the_table_of_rules_takes_the_nearest_rate_of_the_grid_and_lets_prodigy_win() -> None:
    outcomes = (outcome({1e-4: 0.8, 3e-4: 0.6, 1e-3: 0.7, 3e-3: 0.9}), outcome({1e-4: 0.8, 3e-4: 0.5, 1e-3: 0.7}))
    runs = tuple(predicted(guess, RATES) for guess in (3e-4, 1e-3))
    rules = {"2e-4 always": (2e-4, 2e-4), "rank and width": (1.0, 1e-3)}
    found = Measured("mr", 13, "accuracy", 1.0, 0.5, ("a", "b"), outcomes, {}, runs, (1.0, 1.0), rule_rates=rules)
    rows = {row[0]: row[1:] for row in rules_table([found]).texts}
    assert rows["simulated AdamW"] == ("0.0003 to 0.001", "0.100", "0.100")
    assert rows["2e-4 always"] == ("0.0002", "0.000", "0.000")  # 3e-4 is the nearest
    assert rows["rank and width"][1] == "0.250"  # 3e-3 is the largest of the grid; of b that run failed
    assert rows["the commonest best"] == ("0.0003", "0.000", "0.000") and "Prodigy" not in rows
    better = (Outcome(validation_loss=0.55, start_validation_loss=1.0), Outcome(failure="diverged"))
    rows = {row[0]: row[1:] for row in rules_table([replace(found, prodigy=better)]).texts}
    assert rows["Prodigy"] == ("its own", f"{(-0.05 + 0.5) / 2:.3f}", f"{(-0.05 + 0.5) / 2:.3f}")


def test_prodigy_trains_every_candidate_once(study: ValidationStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Prodigy(torch.optim.Adam):
        def __init__(self, parameters, lr: float) -> None:
            asked.append(lr)
            super().__init__(parameters, lr=1e-3 * lr)

    module = types.ModuleType("prodigyopt")
    module.Prodigy = Prodigy  # pyright: ignore[reportAttributeAccessIssue]
    module.__spec__ = types.SimpleNamespace()  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "prodigyopt", module)
    wanted = replace(study, prodigy=True, candidates=("layer*", "all linear", "attention.self.query"))
    (found,) = measured_candidates(wanted)
    assert asked == [1.0] * 4 and len(found.prodigy) == 4
    assert all(run.failure is None and run.learning_rate == 1.0 for run in found.prodigy)
    assert "Prodigy" in {row[0] for row in rules_table([found]).texts}
    assert set(found.rule_rates) == set(rate_rules(2)) and found.epoch == 2


def test_without_its_package_prodigy_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'foretune\[prodigy\]'"):
        ProdigyOptimiser().on([])
    result = run_cli("validate", "no-model", "--prodigy", "--out", tmp_path / "out")
    assert_refused(result, 1, "no-model")  # the package is there: the model is not
