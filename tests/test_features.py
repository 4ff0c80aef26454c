"""Tangent features: sketches are unbiased, exact where they can be, one pass makes them, and a forecast reads them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import foretune as ft
from foretune.analysis.batch_choice import chosen_batch
from foretune.analysis.dynamics import FunctionSpace, GradientDescent, best_run, curves
from foretune.analysis.feature_kernel import FeatureKernel, FeatureMatrix, gradient_squares, side_by_side, weighted_sum
from foretune.analysis.influence import row_influences
from foretune.analysis.label_regression import label_regression
from foretune.analysis.resolvent import Resolvent
from foretune.analysis.solvers import joint_data, named_solver, solve_on_grid
from foretune.analysis.spectrum import largest_eigenvalue, spectrum
from foretune.analysis.transferability import kernel_target_alignment
from foretune.candidates import comparison as candidates_compared
from foretune.candidates import joint
from foretune.candidates.candidate import formulas_for, parameter_sizes
from foretune.candidates.comparison import comparison
from foretune.candidates.effort import Effort
from foretune.candidates.evidence import Pool
from foretune.candidates.risk import relative_risk, relative_risk_alone
from foretune.candidates.sketched import FINE, sketch_for
from foretune.cli import solve
from foretune.cli.options import ReportOptions
from foretune.cli.solve import run_solve
from foretune.cli.solve_options import SolverOptions
from foretune.errors import KernelFolderError, StorageError, UsageError
from foretune.experiment.inputs import Inputs
from foretune.gradients.factors import FactorBatch
from foretune.gradients.source import GradientSource
from foretune.kernels import feature_pass
from foretune.kernels.feature_folder import read_features
from foretune.kernels.feature_pass import fits, tangent_features
from foretune.kernels.memory_plan import Footprint, Sizes, one_pass_batch, tile_plan
from foretune.kernels.sketch import Sketch
from foretune.store.kept import write_kept
from foretune.text.example import as_examples
from tests.cases import ROWS, language_model, outputs_of
from tests.conftest import assert_refused, assert_valid, family, many_rows, run_cli, write_jsonl

EXAMPLES = as_examples(ROWS)
N = 4
WHOLE = Sketch(5000)
"""Larger than any block of a tiny model."""


def job_of(outputs) -> ft.Job:
    return ft.joint_job(outputs, EXAMPLES[:N], EXAMPLES[N:])


def formulas_of(job):
    return formulas_for(job.kinds, ranks=(2, 16))


def product(features, names) -> np.ndarray:
    phi = side_by_side(features.of(names), features.width(names), None).astype(float)
    return np.einsum("ick,jdk->icjd", phi[: features.n], phi)


@pytest.mark.parametrize("name", ["bert-encoder", "gpt2-causal", "llama-tied-causal"])
def test_a_sketch_that_is_large_enough_is_exact(name: str) -> None:
    outputs = outputs_of(language_model(family(name)), difference=False)
    job = job_of(outputs)
    exact = ft.kernels_of(job, formulas_of(job))
    found = tangent_features(job_of(outputs), formulas_of(job), WHOLE)
    for label, kernel in exact.items():
        size = np.abs(kernel.array).max()
        for place, block in enumerate(kernel.names):
            if job.kinds[block] != "embedding":  # signs of rows: a table has as many as there are words
                np.testing.assert_allclose(
                    product(found[label], [block]), kernel.array[place], rtol=1e-5, atol=1e-6 * size, err_msg=block
                )


@pytest.mark.parametrize(
    ("name", "directions"), [("bert-masked", 0), ("mixtral-causal", 0), ("llama-tied-causal", 2), ("mixtral-causal", 2)]
)
def test_sketched_kernels_are_unbiased(name: str, directions: int) -> None:
    outputs = outputs_of(language_model(family(name)), difference=True)
    job = job_of(outputs)
    exact = ft.kernels_of(job, formulas_of(job))
    drawn = [tangent_features(job_of(outputs), formulas_of(job), Sketch(16, seed, directions)) for seed in range(12)]
    for label, kernel in exact.items():
        found = np.stack([product(each[label], kernel.names) for each in drawn])
        spread = found.std(0) / np.sqrt(len(found))
        assert (np.abs(found.mean(0) - kernel.total()) <= 4.5 * spread + 1e-6 * np.abs(kernel.total()).max()).all(), (
            label
        )


@pytest.mark.parametrize("difference", [True, False])
def test_directions_leave_the_sketch_less_to_estimate_and_are_exact_for_their_examples(difference: bool) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")), difference=difference)
    exact = ft.kernels_of(job_of(outputs), [ft.SGD()])["sgd"].total()
    errors = []
    for directions in (0, 2):
        drawn = [
            tangent_features(job_of(outputs), [ft.SGD()], Sketch(16, seed, directions))["sgd"] for seed in range(8)
        ]
        kernels = [product(each, each.names) for each in drawn]
        errors.append(np.sqrt(np.mean([np.square(kernel - exact).sum() for kernel in kernels])))
    assert errors[1] < 0.7 * errors[0]
    for place in (0, 2) if difference else ():  # of two examples among four, in a small model
        np.testing.assert_allclose(kernels[0][place], exact[place], rtol=1e-4, atol=1e-5 * np.abs(exact).max())


def test_batches_and_chunks_change_nothing(monkeypatch) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    formulas = formulas_of(job_of(outputs))
    usual = tangent_features(job_of(outputs), formulas, Sketch(8))
    monkeypatch.setattr(feature_pass, "CHUNK", 2)
    monkeypatch.setattr(feature_pass, "batch_within", lambda *_: 1)
    alone = tangent_features(job_of(outputs), formulas, Sketch(8))
    for label, features in usual.items():
        assert len(features.chunks) == 1 and len(alone[label].chunks) == len(ROWS) // 2
        for (_, first), (_, second) in zip(features.of(features.names), alone[label].of(features.names), strict=True):
            np.testing.assert_allclose(first, second, atol=1e-6 * np.abs(first).max(initial=1e-6))


def captured_counts(monkeypatch) -> list[int]:
    """How many examples each capture holds."""
    counts: list[int] = []
    capture = GradientSource.capture

    def counted(self: GradientSource, positions: Iterable[int], batch: int) -> list[FactorBatch]:
        counts.append(len(list(positions)))
        return capture(self, positions, batch)

    monkeypatch.setattr(GradientSource, "capture", counted)
    return counts


@pytest.mark.parametrize("times", [1, 3])
def test_a_pass_holds_one_batch_whatever_the_number_of_examples(times: int, monkeypatch) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    monkeypatch.setattr(feature_pass, "batch_within", lambda *_: 2)
    monkeypatch.setattr(feature_pass, "CHUNK", 4)
    counts = captured_counts(monkeypatch)
    rows = EXAMPLES * times
    tangent_features(ft.joint_job(outputs, rows[:N], rows[N:]), [ft.SGD()], Sketch(4))
    assert max(counts) == 2 and sum(counts) == len(rows) + N  # the examples of the directions before


def test_a_projected_kernel_takes_every_example_once_whatever_the_tiles(monkeypatch) -> None:
    from foretune.kernels.job import Job
    from foretune.kernels.memory_plan import TilePlan

    outputs = outputs_of(language_model(family("bert-encoder")))
    expected = ft.block_kernels(outputs, ROWS, formula=ft.Kronecker(8)).array
    monkeypatch.setattr(Job, "plan", lambda *_, **__: TilePlan(1, 2, 2, 100, 0))
    counts = captured_counts(monkeypatch)
    found = ft.block_kernels(outputs, ROWS, formula=ft.Kronecker(8)).array
    assert "signs='hadamard'" in repr(ft.Kronecker(8))  # of which the folder of a kernel tells
    assert sum(counts) == len(ROWS)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


class _KilledError(Exception):
    """Stands for a kill."""


def test_a_killed_pass_goes_on_and_ends_with_the_same_bits(tmp_path, monkeypatch) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    monkeypatch.setattr(feature_pass, "CHUNK", 2)
    whole = tangent_features(job_of(outputs), [ft.SGD()], Sketch(8), out=tmp_path / "whole")["sgd"]

    def kill(what: str, done: int, total: int) -> None:
        raise _KilledError

    with pytest.raises(_KilledError):
        tangent_features(job_of(outputs), [ft.SGD()], Sketch(8), out=tmp_path / "killed", progress=kill)
    counts = captured_counts(monkeypatch)
    found = tangent_features(job_of(outputs), [ft.SGD()], Sketch(8), out=tmp_path / "killed")["sgd"]
    assert sum(counts) == N + len(ROWS) - 2  # the examples of the directions again
    for first, second in zip(whole.chunks, found.chunks, strict=True):
        assert np.array_equal(first.values, second.values)


def test_a_damaged_chunk_is_named_and_made_again(tmp_path) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    before = tangent_features(job_of(outputs), [ft.SGD()], Sketch(8), out=tmp_path / "f")["sgd"].chunks[0].values
    (file,) = (tmp_path / "f" / "chunks").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{file.name}.*computed again"):
        found = tangent_features(job_of(outputs), [ft.SGD()], Sketch(8), out=tmp_path / "f")["sgd"]
    assert np.array_equal(found.chunks[0].values, before)


def test_what_stands_under_the_name_of_a_chunk_and_never_was_one_is_refused_and_stays(tmp_path) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    tangent_features(job_of(outputs), [ft.SGD()], Sketch(8), out=tmp_path / "f")
    (file,) = (tmp_path / "f" / "chunks").iterdir()
    np.save(file, np.zeros(3, np.float32))
    before = file.read_bytes()
    with pytest.raises(StorageError, match=f"{file.name} is not as foretune writes its arrays.*Move it: mv -- "):
        tangent_features(job_of(outputs), [ft.SGD()], Sketch(8), out=tmp_path / "f")
    assert file.read_bytes() == before


def test_a_folder_of_other_features_is_refused(tmp_path) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    tangent_features(job_of(outputs), [ft.SGD()], Sketch(8), out=tmp_path / "f")
    with pytest.raises(UsageError, match="another feature: it differs in sketch"):
        tangent_features(job_of(outputs), [ft.SGD()], Sketch(9), out=tmp_path / "f")
    with pytest.raises(UsageError, match=r"not of SignGD.*block_kernels"):
        tangent_features(job_of(outputs), [ft.SignGD()], Sketch(8))
    with pytest.raises(UsageError, match=r"more than half of the memory budget.*--out DIR"):
        tangent_features(job_of(outputs), [ft.SGD()], Sketch(8), memory=10_000)


def random_joint(
    c: int, k: int, n: int = 12, others: int = 9
) -> tuple[FeatureKernel, np.ndarray, np.ndarray, np.ndarray]:
    """A kernel held as features, the same as an array, labels and outputs."""
    rng = np.random.default_rng(c + 10 * k)
    y = rng.permutation(np.arange(n + others) % max(c, 2))
    phi = rng.standard_normal((n + others, c, k)) + y[:, None, None]
    held = FeatureKernel.joint(phi, n)
    return held, np.einsum("ick,jdk->icjd", phi[:n], phi), y, rng.standard_normal((n + others, c))


@pytest.mark.parametrize(("c", "k"), [(1, 5), (3, 7), (1, 40), (2, 60)])
def test_what_reads_a_kernel_reads_its_features(c: int, k: int) -> None:
    held, array, y, f0 = random_joint(c, k)
    n, v = 12, 5
    train, matrix = held[:, :, :n].reshape(n * c, n * c), array[:, :, :n].reshape(n * c, n * c)
    own, other = spectrum(train), spectrum(matrix)
    wanted = np.linspace(-1, 1, n * c)
    assert largest_eigenvalue(train) == pytest.approx(other.largest)
    assert own.rank == other.rank and own.smallest == pytest.approx(other.smallest, abs=1e-9 * other.largest)
    assert own.ridge_risk(wanted, 0.1) == pytest.approx(other.ridge_risk(wanted, 0.1))
    across = held[:, :, n:].reshape(n * c, -1).T, array[:, :, n:].reshape(n * c, -1).T
    coordinates, weights = own.coordinates(wanted), np.sqrt(own.values)
    np.testing.assert_allclose(own.vectors.T @ own.vectors, np.eye(len(own.values)), atol=1e-6)
    np.testing.assert_allclose(coordinates, own.vectors.T @ wanted, atol=1e-8)
    np.testing.assert_allclose(own.combined(weights), own.vectors @ weights, atol=1e-8)
    np.testing.assert_allclose(own.across(across[0]), across[1] @ own.vectors, atol=1e-6 * other.largest)
    for kernel, apart in ((train, across[0]), (matrix, across[1])):
        resolvent = Resolvent.of(kernel)
        solved = np.linalg.solve(matrix + 0.1 * other.largest * np.eye(n * c), wanted)
        assert resolvent.largest == pytest.approx(other.largest)
        np.testing.assert_allclose(resolvent.solved(wanted, 0.1 * other.largest), solved, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(
            resolvent.across(apart, wanted, 0.1 * other.largest), across[1] @ solved, rtol=1e-5, atol=1e-7
        )
    assert relative_risk_alone(train, wanted) == pytest.approx(relative_risk(other, wanted).exact)
    assert relative_risk_alone(matrix, wanted) == pytest.approx(relative_risk(other, wanted).exact)
    targets = np.eye(max(c, 2))[y[:n]][:, :c] - 0.5
    assert kernel_target_alignment(held[:, :, :n], targets) == pytest.approx(
        kernel_target_alignment(array[:, :, :n], targets)
    )
    np.testing.assert_allclose(gradient_squares(held, f0[:n]), gradient_squares(array, f0[:n]))
    np.testing.assert_allclose((held + held).dense(), 2 * array)
    regressions = [label_regression(kernel, y[: n + v], eigen=eigen) for kernel, eigen in ((held, own), (array, other))]
    regressions += [label_regression(kernel, y[: n + v]) for kernel in (held, array)]
    for found in regressions[1:]:
        np.testing.assert_allclose(found.outputs, regressions[0].outputs, atol=1e-6)
        assert found.strength == regressions[0].strength
    spaces = [FunctionSpace(kernel.transpose(2, 3, 0, 1), f0, y, validation=v) for kernel in (held, array)]
    for descent in (GradientDescent(0.02), GradientDescent(0.02, batch=5)):
        first, second = (curves(space, descent, 20)[0] for space in spaces)
        np.testing.assert_allclose(first.outputs, second.outputs, rtol=1e-6, atol=1e-8)
    runs = [best_run(space, GradientDescent(1.0), 20) for space in spaces]
    assert runs[0].learning_rate == pytest.approx(runs[1].learning_rate)
    for solver in ("ridge", "logistic"):
        solutions = [
            solve_on_grid(named_solver(solver), joint_data(kernel, f0, y, v), {"strength": [1e-2], "f0_scale": [10.0]})
            for kernel in (held, array)
        ]
        np.testing.assert_allclose(solutions[0].probabilities, solutions[1].probabilities, atol=1e-4)


def test_a_mixture_of_many_features_keeps_the_kernel_and_what_examples_share() -> None:
    rng = np.random.default_rng(0)
    blocks = [10 + rng.standard_normal((12, 1, 8)) for _ in range(40)]
    exact = np.sum([block[:, 0] @ block[:, 0].T for block in blocks], axis=0)
    draws = []
    for seed in range(60):
        numbered = ((1000 * seed + place, block) for place, block in enumerate(blocks))
        mixed = side_by_side(numbered, 320, 32, n=12)[:, 0]
        assert mixed.shape == (12, 32)
        draws.append(mixed @ mixed.T)
    spread = np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (np.abs(np.mean(draws, axis=0) - exact) <= 4.5 * spread + 1e-9 * exact).all()
    assert spread.max() * np.sqrt(len(draws)) < 0.01 * exact.max()  # mixed with what is shared: 0.2
    kernels = [FeatureKernel.joint(block, 4) for block in blocks[:3]]
    np.testing.assert_allclose(
        weighted_sum(kernels, [1.0, 4.0, 0.0]).dense(), kernels[0].dense() + 4 * kernels[1].dense(), rtol=1e-5
    )


def test_a_forecast_from_features_is_that_of_exact_kernels() -> None:
    outputs = outputs_of(language_model(family("bert-encoder")), head=True)
    rng = np.random.default_rng(0)
    words = np.array(["good", "bad", "great", "dull", "film", "plot", "story", "slow", "funny", "sad"])
    rows = [{"text": " ".join(rng.choice(words, 6)), "label": str(number % 2)} for number in range(36)]
    examples = as_examples([row["text"] for row in rows])
    y = np.array([int("good" in row["text"]) for row in rows])
    n = 16
    job = ft.joint_job(outputs, examples[:n], examples[n:])
    formulas = formulas_for(job.kinds, ranks=(2,))
    blocks = [name for name, kind in job.kinds.items() if kind != "embedding"]
    jobs = [ft.joint_job(outputs, examples[:n], examples[n:], blocks) for _ in range(2)]
    exact, sketched = ft.kernels_of(jobs[0], formulas), tangent_features(jobs[1], formulas, WHOLE)
    f0 = rng.standard_normal((36, outputs.n_outputs)) / 10
    sizes = {name: tensor.numel() for name, tensor in outputs.parameters().items()}
    inputs = Inputs(y, f0, rng.standard_normal((36, 4)), n, 12, 2, sizes, "accuracy", head="probed")
    effort = Effort(steps=40, compared=3, resamples=4, greedy_sizes=(1, 2))
    results = [comparison(Pool(kernels, inputs, parameter_sizes(outputs), effort)) for kernels in (exact, sketched)]
    first, second = (sorted(found.candidates, key=lambda item: item.title) for found in results)
    assert [item.title for item in first] == [item.title for item in second]
    for one, other in zip(first, second, strict=True):
        assert other.score.label_error == pytest.approx(one.score.label_error, rel=1e-2), one.title
        assert other.score.validation_loss == pytest.approx(one.score.validation_loss, rel=1e-2), one.title
        assert other.score.change == pytest.approx(one.score.change, rel=5e-2), one.title


def sketched_case(f0: np.ndarray) -> tuple[ft.HeadLogits, dict[str, ft.TangentFeatures], Inputs]:
    """A model with a head, its sketched kernels, and inputs with these outputs before training."""
    outputs = outputs_of(language_model(family("bert-encoder")), head=True)
    job = job_of(outputs)
    kernels = tangent_features(job, formulas_of(job), Sketch(16))
    sizes = {name: tensor.numel() for name, tensor in outputs.parameters().items()}
    y, start = np.arange(len(ROWS)) % 2, np.resize(f0, (len(ROWS), outputs.n_outputs))
    return outputs, kernels, Inputs(y, start, np.eye(len(ROWS)), N, 1, 2, sizes, "accuracy", head="probed")


def test_evidence_in_the_primal_is_that_of_the_array(monkeypatch) -> None:
    outputs, kernels, inputs = sketched_case(np.linspace(-0.1, 0.1, len(ROWS)))
    found = []
    for rows in (1024, 0):
        monkeypatch.setattr(joint, "DENSE", rows)
        pool = Pool.sized(kernels, inputs, parameter_sizes(outputs))
        assert isinstance(pool.candidates, list)
        seen = [pool.evidence(item) for item in pool.candidates[:12]]
        assert all(isinstance(each.kernel, FeatureKernel) == (rows == 0) for each in seen if each.blocks)
        stable = [[run.validation_loss[-1] for run in each.descent.curves[:9]] for each in seen]
        found.append([[each.exact_risk, each.labels.error, *runs] for each, runs in zip(seen, stable, strict=True)])
    # rates below the largest stable one: above it rounding grows with every step
    np.testing.assert_allclose(found[0], found[1], rtol=2e-3, atol=1e-5)


def test_features_of_candidates_that_fall_back_are_dropped_and_change_nothing(monkeypatch) -> None:
    outputs, kernels, inputs = sketched_case(np.linspace(-0.1, 0.1, len(ROWS)))
    monkeypatch.setattr(joint, "DENSE", 0)
    found, held = [], []
    for drop in (candidates_compared._drop_features, lambda *_: None):
        monkeypatch.setattr(candidates_compared, "_drop_features", drop)
        pool = Pool(kernels, inputs, parameter_sizes(outputs), Effort(steps=20, compared=2, resamples=2))
        found.append(comparison(pool).candidates)
        held.append(sum("kernel" in vars(evidence) for evidence in pool._known.values()))
    assert found[0] == found[1]
    assert held[0] <= 8 < held[1]  # two, their blocks in full, linear probing and the smallest loss


def test_the_risk_of_the_first_rows_is_the_same_from_features(monkeypatch) -> None:
    outputs, kernels, inputs = sketched_case(np.zeros(1))
    found = []
    for rows in (256, 0):
        monkeypatch.setattr(joint, "_FEW", rows)
        pool = Pool(kernels, inputs, parameter_sizes(outputs), Effort(risk_rows=2 * outputs.n_outputs))
        found.append([pool.evidence(item).exact_risk for item in pool.candidates])
    assert len(set(found[0])) > 3
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_few_rows_have_the_finer_sketch_where_it_can_be_held() -> None:
    outputs = outputs_of(language_model(family("bert-encoder")), difference=True)
    job = job_of(outputs)
    many = ft.joint_job(outputs, EXAMPLES[:N], EXAMPLES * 400)
    blocks = {each: each.blocks(job.kinds) for each in formulas_of(job)}
    assert sketch_for(job, formulas_of(job), "1GiB", on_disk=False) == FINE
    for on_disk in (True, False):
        budgets = [size << 20 for size in range(1, 1025)]
        least = next(size for size in budgets if fits(job, blocks, FINE, size, on_disk=on_disk))
        assert sketch_for(job, formulas_of(job), least, on_disk=on_disk) == FINE
        assert sketch_for(job, formulas_of(job), least - (1 << 20), on_disk=on_disk) == Sketch()
    assert sketch_for(many, formulas_of(job), "100GiB", on_disk=False) == Sketch()


def test_the_command_says_that_kernels_are_sketched_and_how_far_they_are_off(
    bert_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    command = ("forecast", bert_folder, data_file, "--k", 4, "--test", 8, "--blocks", "encoder.layer.0.*,head.*")
    found = run_cli(*command, "--features", "sketched", "--out", tmp_path / "run", "--details")
    assert found.returncode == 0, found.stderr
    said = " ".join(found.stdout.split())
    assert "Kernels are sketched, 1024 numbers for each block, output and example." in said
    assert "On 8 x 16 examples the sketched kernel is off by" in said
    assert sorted(file.name for file in (tmp_path / "run" / "kernels").iterdir()) == ["features"]


@pytest.fixture(scope="module")
def sketched_run(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a forecast from features that keep every number of a block, and of exact kernels of the same rows."""
    folder = tmp_path_factory.mktemp("solved")
    write_jsonl(folder / "rows.jsonl", many_rows())
    options = ("--k", 6, "--test", 12, "--blocks", "encoder.layer.0.*,head.*")
    made = run_cli("forecast", bert_folder, folder / "rows.jsonl", *options, "--rank", 2, "--features", "sketched",
                   "--out", folder / "run")  # fmt: skip
    assert made.returncode == 0, made.stderr
    exact = run_cli("kernel", bert_folder, folder / "rows.jsonl", *options, "--out", folder / "exact")
    assert exact.returncode == 0, exact.stderr
    return folder / "run"


def solved(folder: Path, file: Path, **options: str) -> dict[str, dict]:
    """What `solve` says of each kernel and solver of a folder."""
    run_solve(SolverOptions(folder, **options), ReportOptions(json=file, quiet=True))
    found = json.loads(file.read_text())
    assert_valid("solve", found)
    return {f"{each['kernel']} {each['solver']}": each for each in found["solutions"]}


@pytest.mark.parametrize("dense", [1024, 0], ids=["multiplied out", "primal"])
@pytest.mark.parametrize("choose", ["validation", "cv"])
def test_solvers_say_the_same_of_features_and_of_exact_kernels(
    dense: int, choose: str, sketched_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint, "DENSE", dense)
    options = {"solver": "ridge,logistic", "choose": choose, "kernels": "sgd", "select": "*.weight"}
    found = solved(sketched_run, tmp_path / "features.json", **options)
    exact = solved(sketched_run.with_name("exact"), tmp_path / "exact.json", **options)
    assert list(found) == list(exact) == ["sgd ridge", "sgd logistic"]
    for name, each in found.items():
        losses = [[point["validation_loss"] for point in one["solution"]["grid"]] for one in (each, exact[name])]
        np.testing.assert_allclose(*losses, rtol=0.05, atol=1e-3)
        probabilities = [one["solution"]["probabilities"] for one in (each, exact[name])]
        np.testing.assert_allclose(*probabilities, atol=0.05)


def test_solve_reads_every_label_says_that_it_is_sketched_and_refuses_what_needs_the_whole_kernel(
    sketched_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(solved(sketched_run, tmp_path / "all.json")) == ["sgd ridge", "lora-r2 ridge"]
    assert "Sketched, not exact: sgd, lora-r2. `foretune show" in " ".join(capsys.readouterr().out.split())
    assert "sgd svc" in solved(sketched_run, tmp_path / "svc.json", solver="svc,asymmetric")  # few rows: multiplied out
    with pytest.raises(KernelFolderError, match=r"no finished kernel 'sdg'; it has sgd, lora-r2\. Did you mean 'sgd'"):
        solved(sketched_run, tmp_path / "none.json", kernels="sdg")
    monkeypatch.setattr(solve, "DENSE", 0)
    with pytest.raises(UsageError, match=r"svc needs the kernel 'sgd' itself.*--solver ridge,logistic,published"):
        solved(sketched_run, tmp_path / "never.json", solver="ridge,svc")
    assert not (tmp_path / "never.json").exists()


def test_show_prints_what_a_feature_folder_holds(sketched_run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(sketched_run, copied)
    shown = run_cli("show", copied / "kernels" / "features", env={"COLUMNS": "160"})
    assert shown.returncode == 0, shown.stderr
    said = " ".join(shown.stdout.split())
    assert "2 kernels" in said and "sgd, lora-r2" in said and "numbers for an example and output" in said
    (copied / "forecast.json").unlink()
    assert run_cli("show", copied, env={"COLUMNS": "160"}).stdout.count("numbers for an example") == 2
    (copied / "kernels" / "features" / "chunks" / "0-36.npy").write_bytes(b"nothing")
    assert_refused(run_cli("show", copied), 1, "0-36.npy is damaged", "repeat the command that made it")


def test_features_multiply_out_to_the_kernels_of_their_blocks(tmp_path: Path) -> None:
    """A sketch that is wider than every block is exact."""
    outputs = outputs_of(language_model(family("bert-encoder")))
    exact = ft.kernels_of(job_of(outputs), [ft.SGD()])["sgd"]
    tangent_features(job_of(outputs), [ft.SGD()], Sketch(1 << 20), out=tmp_path / "f")
    found = ft.read_features(str(tmp_path / "f"))["sgd"]
    assert isinstance(found, ft.TangentFeatures) and found.names == exact.names and found.shape == exact.shape
    assert repr(found) == repr(exact).replace("BlockKernel", "TangentFeatures")
    largest = np.abs(exact.total()).max()
    np.testing.assert_allclose(found.total(), exact.total(), atol=1e-5 * largest)
    np.testing.assert_allclose(found.matrix(), exact.matrix(), atol=1e-5 * largest)
    some = exact.names[1::3]
    np.testing.assert_allclose(found.summed(some), exact.summed(some), atol=1e-5 * largest)
    np.testing.assert_allclose(found.summed(some, 3), exact.summed(some, 3), atol=1e-5 * largest)


def test_a_folder_of_features_opened_as_a_kernel_names_its_reader(tmp_path: Path) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    tangent_features(job_of(outputs), [ft.SGD()], Sketch(8), out=tmp_path)
    with pytest.raises(KernelFolderError, match=r"holds kernels as features.*`foretune\.read_features` reads it"):
        ft.BlockKernel.open(tmp_path)
    with pytest.raises(KernelFolderError, match="not a feature folder"):
        ft.read_features(tmp_path / "nothing")


def test_features_are_read_back_as_they_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of(language_model(family("bert-encoder")))
    monkeypatch.setattr(feature_pass, "CHUNK", 4)
    made = tangent_features(job_of(outputs), formulas_of(job_of(outputs)), Sketch(8), out=tmp_path / "f")
    found = read_features(tmp_path / "f")
    assert list(found) == list(made)
    for label, features in made.items():
        assert found[label].shape == features.shape and found[label].description == json.loads(
            json.dumps(features.description)
        )
        for (number, first), (other, second) in zip(
            found[label].of(features.names), features.of(features.names), strict=True
        ):
            assert number == other and np.array_equal(first, second)
    begun = json.loads((tmp_path / "f" / "features.json").read_text())
    del begun["direct"], begun["checksum"]
    write_kept(tmp_path / "f" / "features.json", begun)
    with pytest.raises(KernelFolderError, match="unfinished"):
        read_features(tmp_path / "f")


@pytest.mark.parametrize("size", [3, 200])
def test_the_largest_eigenvalue_needs_no_vectors(size: int) -> None:
    root = np.random.default_rng(size).standard_normal((size, size))
    matrix = root @ root.T
    assert largest_eigenvalue(matrix) == pytest.approx(spectrum(matrix).largest, rel=1e-12)
    assert largest_eigenvalue(0 * matrix) == 0
    assert largest_eigenvalue(np.eye(size)) == pytest.approx(1)


def test_a_plan_prefers_what_takes_less_time() -> None:
    footprint, lengths = Footprint(400_000, 150_000.0, 600_000.0), [20 + 17 * k % 23 for k in range(664)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plans = [
            tile_plan(footprint, (lengths[:300], lengths), size * 2**20, overlap=True, single=False)
            for size in (512, 1024, 4096)
        ]
    assert [plan.batch for plan in plans] == sorted(plan.batch for plan in plans)
    assert all(plan.batch >= 4 for plan in plans)
    assert one_pass_batch(footprint, 40, 2**30, 0, single=False) == 8
    assert one_pass_batch(footprint, 40, 2**30, 0, single=True) == 1
    with pytest.raises(UsageError, match="Use --memory"):
        one_pass_batch(replace(footprint, graph=2.0**30), 40, 2**30, 0, single=False, sizes=Sizes())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("k", [5, 40, 200])
def test_numbers_that_are_not_finite_are_refused_before_anything_is_decomposed(k: int, bad: float) -> None:
    features = np.random.default_rng(0).standard_normal((60, k)).astype(np.float32)
    features[7, 3] = bad
    matrix = FeatureMatrix(features, features)
    with np.errstate(all="ignore"):
        kernel = features.astype(np.float64) @ features.T
    for refused in (
        lambda: spectrum(matrix),
        lambda: Resolvent.of(matrix),
        lambda: Resolvent.of(kernel),
        lambda: row_influences(kernel[:40, :40], kernel[40:, :40], np.eye(40), 1.0),
        lambda: chosen_batch(kernel, 40, 1.0, np.ones(20), 3),
    ):
        with pytest.raises(ft.ForetuneError, match="undefined entries"):
            refused()
