"""An experiment: one builder for commands, studies and the library, and one folder for what is computed of it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import numpy as np
import pytest

import foretune as ft
from foretune.cli import forecast
from foretune.cli.forecast import run_forecast
from foretune.cli.forecast_options import ForecastOptions
from foretune.cli.options import BlockOptions, DataOptions, ModelOptions, OutputOptions, ReportOptions, RunOptions
from foretune.cli.worker_options import WorkerOptions
from foretune.errors import DataError, StorageError, UsageError
from foretune.experiment import experiment as module
from foretune.experiment.experiment import Experiment, Work, load_experiment
from foretune.experiment.folder import Beside
from foretune.experiment.sample import FewShot, Full, Sample, Sampled
from foretune.experiment.setting import DataSource, Question, Setting
from foretune.finetune.methods import LinearProbing
from foretune.finetune.training import Training
from foretune.kernels.sgd import SGD
from foretune.model.load import load_model
from foretune.model.outputs import Outputs
from foretune.store.kept import write_kept
from tests.conftest import assert_refused, many_rows, run_cli, write_jsonl

ROWS = many_rows(40)
SMALL = ("--k", 3, "--test", 8)


@pytest.fixture(scope="module")
def lm(bert_folder: Path) -> Any:
    return load_model(str(bert_folder))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(made, ROWS)
    return made


def setting(rows: Any, sample: Sample | None = None, **changes: Any) -> Setting:
    return Setting(DataSource(rows), sample or FewShot(3), test=8, **changes)


@pytest.fixture(scope="module")
def kept(lm: Any, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return load_experiment(setting(ROWS), lm, tmp_path_factory.mktemp("kept") / "one")


def test_rows_in_memory_make_the_experiment_that_their_file_makes(lm: Any, file: Path) -> None:
    examples = [ft.Example(row["text"], None, row["label"]) for row in ROWS]
    found = [load_experiment(setting(rows), lm) for rows in (str(file), file, ROWS, iter(ROWS), examples)]
    assert len({json.dumps(each.identity, sort_keys=True) for each in found}) == 1
    for each in found:
        assert np.array_equal(each.inputs.f0, found[0].inputs.f0)
        assert np.array_equal(each.kernels([SGD()])["sgd"].array, found[0].kernels([SGD()])["sgd"].array)


def test_the_command_and_the_library_make_the_same_experiment(
    lm: Any, bert_folder: Path, file: Path, tmp_path: Path
) -> None:
    result = run_cli("kernel", bert_folder, file, *SMALL, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    mine = load_experiment(setting(file), str(bert_folder), tmp_path / "out")  # else another experiment is refused
    kernel = ft.BlockKernel.open(tmp_path / "out" / "kernels" / "sgd")
    assert np.array_equal(load_experiment(setting(ROWS), lm).kernels([SGD()])["sgd"].array, kernel.array)
    described = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert described["identity"] == json.loads(json.dumps(mine.identity))
    assert described["sizes"] == {"train": 6, "validation": 6, "test": 8}


def test_nothing_is_written_without_a_folder_and_all_of_it_into_one(
    lm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = [Training(steps=2, evaluate_every=1)]
    loose = load_experiment(setting(ROWS), lm)
    kept = load_experiment(setting(ROWS), lm, tmp_path / "one")
    for each in (loose, kept):
        each.kernels([SGD()])
        each.value("mean", {}, lambda: {"mean": 1.5})
    assert loose.outcome(LinearProbing(), grid).test_loss == kept.outcome(LinearProbing(), grid).test_loss
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["experiment.json", "head.safetensors", "kernels", "runs", "values"]


def test_what_is_kept_is_read_and_the_head_is_the_one_that_was_kept(
    lm: Any, kept: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.value("number", {"a": 1}, lambda: {"number": 2})

    def refused(*_: object, **__: object) -> Any:
        raise AssertionError("made again")

    monkeypatch.setattr(module, "probed", refused)
    again = load_experiment(setting(ROWS), lm, kept.folder)
    assert again.value("number", {"a": 1}, refused) == {"number": 2}
    assert again.value("number", {"a": 2}, lambda: {"number": 3}) == {"number": 3}
    for one, other in zip(
        again.outputs.module.state_dict().values(), kept.outputs.module.state_dict().values(), strict=True
    ):
        assert one.equal(other)


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (setting(ROWS, seed=21), "test, train, validation"),
        (setting(ROWS, FewShot(2)), "test, train, validation"),
        (setting(ROWS, question=Question(pooling="cls")), "outputs"),
        (setting(ROWS, question=Question(metric="f1")), "metric"),
    ],
    ids=["seed", "sample", "pooling", "metric"],
)
def test_a_folder_of_another_experiment_is_refused_or_passed_by(
    other: Setting, differs: str, lm: Any, kept: Experiment
) -> None:
    folder = kept.folder
    assert folder is not None
    before = (folder / "experiment.json").read_bytes()
    with pytest.raises(UsageError, match=f"holds another experiment: it differs in {differs}"):
        load_experiment(other, lm, folder)
    beside = load_experiment(other, lm, Beside(folder)).folder
    assert beside is not None
    assert beside.parent == folder.parent and beside.name.startswith("one-")
    assert load_experiment(other, lm, Beside(folder)).folder == beside
    assert load_experiment(setting(ROWS), lm, Beside(folder)).folder == folder
    assert (folder / "experiment.json").read_bytes() == before


@pytest.mark.parametrize("name", ["notes.txt", "run.yaml", "kernels/mine.txt"])
def test_a_folder_with_something_else_is_refused_and_left_alone(name: str, lm: Any, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="is not an experiment folder: it holds"):
        load_experiment(setting(ROWS), lm, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_a_cell_of_an_older_version_is_opened(lm: Any, kept: Experiment, tmp_path: Path) -> None:
    write_kept(tmp_path / "old" / "cell.json", {"hash": "of an older version", "identity": kept.identity})
    (tmp_path / "old" / "runs").mkdir()
    found = load_experiment(setting(ROWS), lm, Beside(tmp_path / "old"))
    assert found.folder == tmp_path / "old"
    assert (tmp_path / "old" / "experiment.json").is_file()
    other = load_experiment(setting(ROWS, seed=21), lm, Beside(tmp_path / "old"))
    assert other.folder != found.folder


def test_an_older_folder_of_a_command_is_refused_with_what_makes_it_again(
    bert_folder: Path, file: Path, tmp_path: Path
) -> None:
    made = run_cli("kernel", bert_folder, file, *SMALL, "--out", tmp_path / "out")
    assert made.returncode == 0, made.stderr
    old = tmp_path / "an old one"
    old.mkdir()
    shutil.copy(tmp_path / "out" / "run.yaml", old)
    (old / "examples.json").write_text('{"format": 3}')
    again = f"foretune kernel --config '{old}/run.yaml' --out NEW"
    for command in (("solve", old), ("kernel", bert_folder, file, *SMALL, "--out", old)):
        assert_refused(run_cli(*command), 1, "an older version of foretune", f"`{again}`")
    repeated = run_cli(*shlex.split(again.replace("NEW", str(tmp_path / "new")))[1:])
    assert repeated.returncode == 0, repeated.stderr
    one, other = (ft.BlockKernel.open(tmp_path / name / "kernels" / "sgd").array for name in ("out", "new"))
    assert np.array_equal(one, other)


SIZES = {
    "k": (("--k", 3), {"train": 6, "validation": 6}),
    "n": (("--n", 9), {"train": 9, "validation": 9}),
    "all": (("--full-data",), {"train": 30, "validation": 2}),
    "all-k": (("--full-data", "--k", 1), {"train": 30, "validation": 2}),
}


@pytest.mark.parametrize(
    ("options", "sizes"),
    [pytest.param(*SIZES[each], id=each, marks=[pytest.mark.sweep] * (each in ("k", "all"))) for each in SIZES],
)
def test_every_command_takes_every_sample(options, sizes, bert_folder: Path, file: Path, tmp_path: Path) -> None:
    written = {}
    for command, how in {"forecast": (), "kernel": (), "tune": ("--steps", 1)}.items():
        words = (command, bert_folder, file, *options, "--test", 8, *how, "--out", tmp_path / command)
        result = run_cli(*words, "--json", tmp_path / f"{command}.json")
        assert result.returncode == 0, result.stderr
        written[command] = json.loads((tmp_path / command / "experiment.json").read_text())
        assert written[command]["sizes"] == {**sizes, "test": 8}
    assert len({each["hash"] for each in written.values()}) == 1  # one identity, whatever is asked
    if options[0] == "--n":
        behaviour = run_cli("behaviour", tmp_path / "tune", "--segment-points", 1)
        assert behaviour.returncode == 0, behaviour.stderr


def test_samples_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for others in (("--k", 4), ("--full-data",)):
        for command in ("forecast", "validate"):
            words = (command, "no-model", *(("movies",) if command == "forecast" else ()), "--n", 8, *others)
            assert_refused(run_cli(*words), 2, f"--n and {others[0]} contradict each other")


def test_samples_draw_what_they_say() -> None:
    parts = module.drawn(setting(ROWS, Sampled(10)))
    assert len(parts.split.train) == len(parts.split.validation) == 10
    few = module.drawn(setting(ROWS, FewShot(2))).split
    assert Counter(example.label for example in few.train) == {"negative": 2, "positive": 2}
    everything = module.drawn(setting(ROWS, Full(1))).split
    assert len(everything.train) == 40 - 8 - 2
    with pytest.raises(DataError, match=r"[Aa]dd rows"):
        module.drawn(setting(ROWS, FewShot(30)))


def test_words_are_for_models_that_have_them(lm: Any, llama_folder: Path) -> None:
    words = {"negative": "terrible", "positive": "great"}
    with pytest.raises(UsageError, match="--words is for prompts"):
        load_experiment(setting(ROWS, question=Question(words=words)), lm)
    found = load_experiment(setting(ROWS, question=Question(words=words)), str(llama_folder))
    assert found.outputs.description["words"] == words


def test_work_is_told_of_and_no_number_depends_on_it(lm: Any) -> None:
    told: list[str] = []
    work = Work("1GiB", lambda what, done, total: told.append(what))
    found = load_experiment(setting(ROWS), lm, work=work)
    found.kernels([SGD()])
    assert "kernel blocks" in told
    assert [stage.name for stage in work.stages.finished] == ["read the data", "load the model", "prompt or head"]
    assert found.identity == load_experiment(setting(ROWS), lm).identity


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, ...]]:
    """The tokens of an example -> how often it went forward through a model."""
    found: Counter[tuple[int, ...]] = Counter()
    parts = Outputs._parts

    def counted(self: Outputs, batch: dict[str, Any]) -> list[dict[str, Any]]:
        lengths = batch["attention_mask"].sum(1).tolist()
        found.update(tuple(ids[:n]) for ids, n in zip(batch["input_ids"].tolist(), lengths, strict=True))
        return parts(self, batch)

    monkeypatch.setattr(Outputs, "_parts", counted)
    return found


class ComputedError(Exception):
    """The model has done its part."""


ONCE = {"head": ("bert-encoder", None, 2), "words": ("llama-causal", "negative=terrible,positive=great", 1)}
"""Of what answers: model, options, and how often a training example goes forward: the head is fitted before the kernel."""


@pytest.mark.parametrize("features", ["exact", "sketched"])
@pytest.mark.parametrize("answer", ONCE)
def test_an_example_goes_through_the_model_once_for_outputs_features_and_kernel(
    answer: str,
    features: Literal["exact", "sketched"],
    model_folder,
    file: Path,
    tmp_path: Path,
    passed: Counter[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family, words, times = ONCE[answer]
    model, n = str(model_folder(family)), 16
    blocks = "encoder.layer.0.attention.self.*,head.*" if answer == "head" else "*layers.0.self_attn.*"

    def computed() -> None:
        with pytest.raises(ComputedError):
            run_forecast(
                ModelOptions(model),
                DataOptions(str(file), k=n // 2, test=20),
                OutputOptions(words=words),
                BlockOptions(blocks=blocks),
                ForecastOptions(rank="1", features=features),
                RunOptions(out=tmp_path / "run"),
                WorkerOptions(),
                ReportOptions(quiet=True),
            )

    monkeypatch.setattr(forecast, "pool_forecast", Mock(side_effect=ComputedError))
    computed()
    measured = {"exact": 8, "sketched": 24 + 2 * n}[
        features
    ]  # memory, padding, the law on a few; the sketch on all of 2 n
    usual = len(passed) + (times - 1) * 2 * n
    assert usual <= sum(passed.values()) <= usual + measured
    passed.clear()
    computed()
    assert sum(passed.values()) <= measured  # what is kept is read


def test_a_warmed_experiment_is_one_inside_the_first(lm: Any, tmp_path: Path) -> None:
    first = load_experiment(setting(ROWS), lm, tmp_path / "one")
    warm = first.warmed(2)
    assert warm.folder is not None and first.folder in warm.folder.parents
    assert (warm.folder / "experiment.json").is_file()
    assert warm.identity != first.identity
    assert replace(warm, folder=None).identity == first.warmed(2).identity


def test_a_damaged_description_is_refused_with_what_to_do(lm: Any, tmp_path: Path) -> None:
    load_experiment(setting(ROWS), lm, tmp_path / "one")
    description = tmp_path / "one" / "experiment.json"
    description.write_text(description.read_text().replace("positive", "negative"))
    with pytest.raises(StorageError, match=r"is damaged .* Move that folder"):
        load_experiment(setting(ROWS), lm, tmp_path / "one")
