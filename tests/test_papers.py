"""What the papers print and their published code runs: metrics, training, adapters, prompts, norms, defaults."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import foretune as ft
from foretune.analysis.classifier import norm_of_rows, row_norms
from foretune.analysis.scores import score, scored
from foretune.analysis.solvers import joint_data
from foretune.cli.elsewhere import elsewhere
from foretune.errors import UsageError
from foretune.experiment.budget import Budget
from foretune.experiment.experiment import Experiment
from foretune.finetune.methods import LoRAAndHead
from foretune.finetune.optimisers import AdamWOptimiser, SGDOptimiser
from foretune.model.builtin import MODELS
from foretune.model.load import LanguageModel
from foretune.papers.lpft.features import smaller_changes
from foretune.papers.lpft.measures import ByMethod, Measures
from foretune.papers.malladi import measures
from foretune.papers.malladi.recipes import MALLADI_RECIPES
from foretune.papers.malladi.scores import measured_title, title, words_in_pieces
from foretune.papers.printed import printed_figures
from foretune.papers.recipe import Recipe, Study
from foretune.papers.recipes import RECIPES as EVERY
from foretune.papers.sections import TaskGroup
from foretune.regime.analog import analog_formula, analog_solver, orientations
from tests.cases import TASK, language_model, outputs_of
from tests.conftest import assert_refused, family, many_rows, run_cli, write_jsonl
from tests.oracles import jacobian_kernel

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in MALLADI_RECIPES}
CUT = Budget(steps=2, evaluate_every=1, batch_sizes=(4,), learning_rates={"sgd": (1e-3,), "adamw": (1e-3,)})
SMALL = ("--k", 2, "--seeds", 13, "--test", 6, "--steps", 2, "--evaluate-every", 1, "--batch-sizes", 4, "--sgd-rates",
         1e-3, "--adam-rates", 1e-3)  # fmt: skip


def written(folder: Path, *names: str) -> Path:
    """A data folder with made-up rows of each task: four texts per label for training, two of the first label to test."""
    texts = [row["text"] for row in many_rows(60)]
    for name in names:
        task = ft.load_task(name)
        rows = [
            {"text": text, **({} if task.text2 is None else {"text2": "It is fine."}), "label": label}
            for place, text in enumerate(texts)
            for label in [task.labels[place % len(task.labels)]]
        ]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for part, some in (("train", rows[:40]), ("test", [*rows[40:42], *rows[42:60:2]])):
            write_jsonl(folder / name / f"{part}.jsonl", some)
    return folder


def splitting_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows a few words whole, and takes all others apart."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([" terrible", " great", " irresistible"] * 9, trainer)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=256,
    )  # fmt: skip


def tiny_causal(tokenizer: transformers.PreTrainedTokenizerBase) -> LanguageModel:
    """A tiny random Llama with a tokenizer."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=24, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    return LanguageModel(transformers.LlamaForCausalLM(config).eval(), tokenizer, "tiny", None, "causal")


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return language_model(family("bert-masked"), torch.float32)


@pytest.fixture(scope="module")
def cut_words() -> LanguageModel:
    return tiny_causal(splitting_tokenizer())


@pytest.fixture(scope="module")
def study(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Study:
    words = (("not_paraphrase", "bad"), ("paraphrase", "good"))
    folder = tmp_path_factory.mktemp("papers")
    data = written(folder / "data", "mrpc")
    return Study(lm, ("mrpc",), (2,), (13,), 10, folder / "cells", data, CUT, words=words)


def test_table_8_is_measured_in_accuracy_and_table_4_in_the_metric_of_the_task(study: Study) -> None:
    (linear,) = RECIPES["malladi-8"].page(study).tables
    assert linear.header == ("Model", "MRPC")
    cell = study.cell("mrpc", 2, 13)
    predictions = (cell.inputs.f0[cell.inputs.n_train + cell.inputs.n_validation :, 0] > 0).astype(int)
    y = cell.labels("test")
    assert score(y, predictions, "accuracy") != score(y, predictions, "f1")
    assert linear.texts[0][1] == f"{100 * score(y, predictions, 'accuracy'):.1f}"
    found = measures.AdamTuned(cell, measures.published(CUT)).linearization()
    run = cell.run(measures.ADAM_FT.method, measures.published(CUT).grid(measures.ADAM_FT.method, "adamw"))
    assert found.tuned == score(y, run.predictions, "accuracy")
    assert measures.ADAM_FT.score(cell, measures.published(CUT)) == score(y, run.predictions, "f1")
    assert "of every task" in " ".join(RECIPES["malladi-8"].page(study).notes)


@pytest.mark.parametrize(
    ("table", "heading"), [("malladi-4", "MRPC (F1)"), ("malladi-5", "MRPC"), ("malladi-6", "MRPC")]
)
def test_a_heading_names_the_metric_only_where_scores_stand_below_it(table: str, heading: str, study: Study) -> None:
    assert RECIPES[table].page(study).tables[0].header[1] == heading


def test_titles_of_tasks() -> None:
    assert [measured_title(task) for task in ("mr", "qqp", "cola")] == ["MR", "QQP (F1)", "cola (Matthews)"]
    assert [title(task) for task in ("mr", "qqp", "cola")] == ["MR", "QQP", "cola"]


def test_runs_have_the_published_schedule_and_clipping_and_the_page_says_so(study: Study) -> None:
    page = RECIPES["malladi-8"].page(study)
    kept = [json.loads(file.read_text())["key"] for file in study.root.rglob("values/run-*.json")]
    kept += [json.loads(file.read_text())["key"] for file in study.root.rglob("values/linearization-*.json")]
    assert kept
    assert all("schedule='linear', clip=1.0" in training for key in kept for training in key["grid"])
    assert any("falls linearly to zero, gradients are clipped at a norm of 1" in note for note in page.notes)
    both = [
        measures.published(Budget()).grid(method.method, method.optimiser)[0]
        for method in (measures.SGD_FT, measures.ADAM_FT)
    ]
    assert [type(training.optimiser) for training in both] == [SGDOptimiser, AdamWOptimiser]
    assert {(training.schedule, training.clip) for training in both} == {("linear", 1.0)}


@pytest.mark.parametrize(
    ("name", "head"), [("bert-masked", True), ("llama-tied-causal", False), ("llama-causal", True)]
)
def test_the_kernel_of_table_11_is_that_of_the_parameters_that_its_run_trains(
    name: str, head: bool, tmp_path: Path
) -> None:
    language = language_model(family(name))
    outputs, method = outputs_of(language), measures.SGD_LORA_FT.method
    assert isinstance(method, LoRAAndHead)
    started = method.start(outputs)
    trained = method.names(started)
    adapters = {part for name in trained if "lora_" in name for part in name.split(".")}
    assert adapters & {"query", "value", "q_proj", "v_proj"}
    assert not adapters & {"key", "k_proj", "o_proj", "output", "intermediate", "up_proj"}
    behind = [name for name in trained if "lora_" not in name]
    assert bool(behind) == head
    assert not any("embed" in name for name in behind)
    rows = [row["text"] for row in many_rows(3)]
    oracle = sum(kernel for block, kernel in jacobian_kernel(started, rows).items() if block in trained)
    formulas = measures.K_LORA.formulas
    lora, sgd = (ft.block_kernels(outputs, rows, formula=formula) for formula in formulas)
    of_head = sgd.array[[block in outputs.behind_body() for block in sgd.names]].sum(0)
    (found,) = measures.K_LORA.kernels({"lora-r8": lora.total(), "sgd of the head": of_head})
    np.testing.assert_allclose(found, oracle, rtol=0, atol=1e-6 * np.abs(oracle).max())
    memory = {tensor.data_ptr() for tensor in outputs.parameters().values()}
    assert not memory & {
        started.parameters()[name].data_ptr() for name in trained
    }  # the user's model keeps its weights


def test_words_of_several_tokens_answer_with_their_first_piece_in_table_9_and_the_page_says_so(
    cut_words: LanguageModel, tmp_path: Path
) -> None:
    made = Study(cut_words, ("sst2",), (2,), (13,), 6, tmp_path / "cells", written(tmp_path / "data", "sst2"), CUT)
    page = RECIPES["malladi-9"].page(made)
    rows = {row[0]: row[1] for row in page.tables[0].texts}
    assert all(math.isfinite(float(rows[f"Search, {name}"])) for name in ("Adam-FT", "SGD-FT", "K(SGD)"))
    assert any("'pathetic' by" in note and "(Search, SST-2)" in note for note in page.notes)
    assert not words_in_pieces(made)


def test_the_hints_of_reproduce_name_options_that_it_has_and_work_when_followed(
    cut_words: LanguageModel, tmp_path: Path
) -> None:
    folder, data = tmp_path / "model", written(tmp_path / "data", "mr")
    cut_words.module.save_pretrained(folder)
    cut_words.tokenizer.save_pretrained(folder)
    command = ("reproduce", "malladi-5", "--model", folder, "--tasks", "mr", "--data", data, "--out", tmp_path / "out",
               *SMALL)  # fmt: skip
    refused = run_cli(*command, "--words", "negative=pathetic")
    assert_refused(refused, 2, "'pathetic'", "--words negative=WORD", "--first-piece")
    first = run_cli(*command, "--words", "negative=pathetic", "--first-piece")
    assert first.returncode == 0, first.stderr
    shown = " ".join(first.stdout.split())
    assert "Words asked for: negative=pathetic." in shown
    assert "'pathetic' by" in shown
    assert "--words negative=pathetic" in (tmp_path / "out" / "malladi-5" / "page.md").read_text()
    assert "--first-piece" in (tmp_path / "out" / "malladi-5" / "page.md").read_text()
    other = run_cli(*command, "--words", "negative=irresistible")
    assert other.returncode == 0, other.stderr
    assert_refused(run_cli(*command, "--words", "negativ=bad"), 2, "label 'negativ'", "Did you mean 'negative'?")


def test_advice_that_names_an_option_of_another_command_says_whose_it_is(bert_folder: Path, tmp_path: Path) -> None:
    options = {"kernel": {"--blocks", "--out"}, "forecast": {"--blocks"}, "reproduce": {"--out", "--words"}}
    for own in (
        "Use --words, or another --out.",
        "There is no --an-option.",
        "Make one with `foretune kernel --blocks x`.",
    ):
        assert not elsewhere(own, "reproduce", options)
    said = " --blocks is an option of kernel, forecast, not of reproduce."
    assert elsewhere("Use fewer examples, or --blocks.", "reproduce", options) == said
    data = written(tmp_path / "data", "mr")
    refused = run_cli(
        "reproduce", "malladi-5", "--model", bert_folder, "--tasks", "mr", "--data", data, "--out", tmp_path, *SMALL
    )
    assert_refused(refused, 1, "--output head. --output is an option of", "not of reproduce")


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_recipe_finds_its_words_at_its_defaults(name: str, tmp_path: Path) -> None:
    from foretune.model.builtin import builtin_folder

    recipe = EVERY[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(builtin_folder("smollm2"))
    usual = recipe.defaults
    data = written(tmp_path / "data", *usual.tasks)
    made = Study(tiny_causal(tokenizer), usual.tasks, (2,), usual.seeds[:1], 4, tmp_path / "cells", data, CUT)
    for asked in (getattr(recipe, "asked", None),):
        assert len(words_in_pieces(made, *([] if asked is None else [asked]))) == (name == "malladi-9")
    if name == "malladi-9":
        page = recipe.page(dataclasses.replace(made, tasks=("sst2", "rte")))
        assert all(math.isfinite(float(cell)) for row in page.tables[0].texts for cell in row[1:])


def test_a_joint_kernel_that_is_asymmetric_needs_its_other_orientation() -> None:
    outputs = outputs_of(language_model(family("bert-masked")))
    rows = [ft.Example(row["text"], None, row["label"]) for row in many_rows(8)]
    source = ft.AsymmetricSignGD()
    forward, back = (
        ft.joint_kernels(outputs, rows[:4], rows[4:], formula=f).total() for f in (source, source.reversed)
    )
    f0, y = np.zeros((8, 1)), np.array([0, 1] * 4)
    with pytest.raises(UsageError, match=r"not symmetric.*Pass both: kernels.*joint_data\(\.\.\., reversed=\.\.\.\)"):
        joint_data(forward, f0, y, 2)
    both = joint_data(forward, f0, y, 2, "accuracy", back)
    assert both.reversed is not None
    assert joint_data(ft.joint_kernels(outputs, rows[:4], rows[4:]).total(), f0, y, 2).reversed is None


def test_behaviour_and_reproduce_choose_kernel_and_solver_in_one_place() -> None:
    assert [analog_formula(name).label for name in ("sgd", "adamw", "signgd")] == ["sgd", "asymmetric", "asymmetric"]
    for analog, optimiser in ((measures.K_SGD, "sgd"), (measures.K_A_SIGNGD, "adamw")):
        assert analog.formula == analog_formula(optimiser)
        assert analog.formulas == orientations(analog.formula)
    assert (analog_solver(measures.K_SGD.formula), analog_solver(measures.K_A_SIGNGD.formula)) == (
        "logistic",
        "asymmetric",
    )


def test_the_norm_of_a_classifier_is_the_posters_frobenius_norm() -> None:
    printed = printed_figures("tomihari")["features"]["tasks"]
    assert printed["cb"]["Pre-trained"][3] / printed["rte"]["Pre-trained"][3] == pytest.approx(
        math.sqrt(3 / 2), rel=0.002
    )
    generator = np.random.default_rng(0)
    for classes, task in ((3, "cb"), (2, "rte")):
        weight = generator.normal(size=(classes, 768)) * 0.02  # an untrained classifier of RoBERTa-base
        assert norm_of_rows(row_norms(weight)) == pytest.approx(np.linalg.norm(weight))
        assert norm_of_rows(row_norms(weight)) == pytest.approx(printed[task]["FT"][3], rel=0.05)


def test_a_comparison_over_seeds_has_an_interval_and_one_of_a_single_seed_says_that_it_has_none() -> None:
    def found(*changes: float) -> list[Measures]:
        return [Measures(difference=change, norm=1.0) for change in changes]

    def group(**found: list[Measures]) -> TaskGroup[ByMethod]:
        others = {name: [Measures(failure="not run")] for name in ("LoRA", "LP-LoRA")}
        return TaskGroup("rte", 16, (13,), {"LP-FT": found["probed"], "FT": found["plain"], **others})

    (one,) = smaller_changes(group(probed=found(1.05), plain=found(1.06)))
    assert "1.05 against 1.06 (one seed: no interval)" in one
    (three,) = smaller_changes(group(probed=found(1, 2, 3), plain=found(2, 4, 6)))
    low, high = stats.t.interval(0.95, 2, loc=-2, scale=1 / math.sqrt(3))
    assert f"95% interval {low:.3g} to {high:.3g} over 3 seeds, not significant" in three


def test_every_built_in_model_is_named_where_models_are_chosen() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    shown = [
        run_cli(*command).stdout for command in (("env",), ("tasks",), ("tune", "--help"), ("reproduce", "--help"))
    ]
    for text in (readme, *shown):
        assert all(name in text for name in MODELS), text


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 30), c=st.integers(2, 4))
def test_scores_are_those_of_scikit_learn(seed: int, n: int, c: int) -> None:
    generator = np.random.default_rng(seed)
    y, predictions = generator.integers(0, c, n), generator.integers(0, c, n)
    assert score(y, predictions, "accuracy") == accuracy_score(y, predictions)
    f1 = f1_score(y, predictions, labels=[1], average="macro", zero_division=0)
    assert score(y, predictions, "f1") == pytest.approx(f1, abs=1e-12)
    assert score(y, predictions, "matthews") == pytest.approx(matthews_corrcoef(y, predictions), abs=1e-12)


def test_cola_is_scored_by_matthews_correlation_beside_accuracy(tmp_path: Path) -> None:
    assert ft.load_task("cola").metric == "matthews"
    y, predictions = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 1, 0, 0, 1, 1])
    found = scored(y, predictions, "matthews")
    assert found.value == pytest.approx(np.corrcoef(y, predictions)[0, 1])
    assert found.low <= found.value <= found.high
    assert found.accuracy == pytest.approx(4 / 6)
    assert score(y, np.ones(6, int), "matthews") == 0
    assert scored(y, predictions, "accuracy").accuracy is None
    shown = run_cli("tasks", "cola")
    assert "Matthews correlation" in shown.stdout


def test_a_cell_of_cola_reports_the_correlation(lm: LanguageModel, tmp_path: Path) -> None:
    words = (("unacceptable", "bad"), ("acceptable", "good"))
    data = written(tmp_path / "data", "cola")
    made = Study(lm, ("cola",), (2,), (13,), 10, tmp_path / "cells", data, CUT, words=words)
    cell: Experiment = made.cell("cola", 2, 13)
    assert cell.task.words == {"unacceptable": "bad", "acceptable": "good"}
    (table,) = RECIPES["malladi-4"].page(made).tables
    assert table.header[1] == "cola (Matthews)"
    assert all(-100 <= float(row[1]) <= 100 for row in table.texts)
    assert TASK.metric == "accuracy"
