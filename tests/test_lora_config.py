"""The printed LoraConfig trains exactly the modules that it names, in every class that a user may train."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from transformers.models.auto import modeling_auto

import foretune as ft
from foretune.analysis.groups import trainable_groups
from foretune.candidates.candidate import ALPHA, formulas_for
from foretune.errors import UsageError
from foretune.finetune.adapters import adapted
from foretune.finetune.lora_config import adaptable, classes_for, lora_config, refused_modules
from foretune.finetune.methods import LoRATuning
from foretune.finetune.snippet import head_note, python_snippet
from foretune.model.outputs import Outputs
from tests.cases import ROWS, TASK, tokenizer
from tests.conftest import run_cli
from tests.families import FAMILIES, saved

AUTO = {
    "AutoModel": modeling_auto.MODEL_MAPPING,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
}
TELLING = [
    ("llama", False),  # the plain case
    ("bert-body", True),  # loaded as a body, trained as `bert.` in a classifier
    ("roberta", True),  # the classifier has a `dense` of its own
    ("deberta-v3-body", True),  # and this one a pooler outside of the body
    ("gpt2", False),  # weights of shape (inputs, outputs)
    ("deepseek-v3", False),  # names of shared experts, which peft takes for those of routed ones
    ("qwen3-next", True),
    ("t5", True),  # half of an encoder-decoder; the head has an unusual name
    ("mamba", False),  # some modules take no adapters
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that saves a family once."""
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: saved(name, root / name))


def outputs_for(folder: Path, *, head: bool) -> Outputs:
    lm = ft.load_model(folder)
    return ft.HeadLogits(lm, 2) if head else ft.AnswerLogits(lm, TASK)


def linear_blocks(outputs: Outputs) -> list[str]:
    """The weights of linear layers that peft takes."""
    body, head = set(outputs.body()), isinstance(outputs, ft.HeadLogits)
    kinds = {name: kind for name, kind in outputs.kinds().items() if name in body or not head}
    targets = adaptable(outputs, kinds).targets
    return ft.LoRA(1, targets=targets).blocks(kinds) if targets else []


def module_sets(blocks: list[str], draws: int, seed: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Sets that a forecast may recommend: named ones, and irregular ones as the greedy search makes them."""
    yield from ((f"{group.kind} {group.name}", group.names) for group in trainable_groups(blocks, set(blocks)))
    generator = np.random.default_rng(list(seed.encode()))
    for draw in range(draws):
        size = min(len(blocks), int(generator.choice((1, 2, 4, 8, 12))))
        yield f"draw {draw}", tuple(generator.permutation(blocks)[:size].tolist())


def trained(model: Any, arguments: dict[str, Any]) -> tuple[set[str], set[str], Any]:
    """What peft trains: modules with adapters, by their names in the body, and parameters beside them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = peft.get_peft_model(model, peft.LoraConfig(**arguments), low_cpu_mem_usage=True)
    prefix = f"{model.base_model_prefix}."
    layers = {
        name for name, part in made.get_base_model().named_modules() if isinstance(part, peft.tuners.lora.LoraLayer)
    }
    moved = {name for name, tensor in made.named_parameters() if tensor.requires_grad and "lora_" not in name}
    return {name.removeprefix(prefix) for name in layers}, moved, made


def meta_models(module: Any) -> Iterable[tuple[str, Any]]:
    for name, mapping in AUTO.items():
        if type(module.config) in mapping:
            try:
                with torch.device("meta"):
                    model = getattr(transformers, name).from_config(module.config)
            except ValueError:  # T5Gemma's encoder alone: AutoModel has only the whole model
                continue
            yield name, model


def check(outputs: Outputs, sets: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    module: Any = outputs.lm.module
    classes, prefix = classes_for(outputs), f"{module.base_model_prefix}."
    for title, blocks in sets:
        found = lora_config(outputs, classes, blocks, 2, ALPHA)
        assert not found.elsewhere, (title, found)
        everywhere = {**found.arguments, "task_type": None, "modules_to_save": None}
        wanted = {block.removesuffix(".weight").removeprefix(prefix) for block in blocks}
        for name, model in meta_models(module):
            inside = {path.removeprefix(f"{model.base_model_prefix}.") for path, _ in model.named_modules()}
            here = wanted & inside
            if not here:
                continue
            got, beside, _ = trained(model, everywhere)
            assert got == here, (title, name, found.arguments)
            assert not beside, (title, name)
        for name, model in meta_models(module):
            if name == found.trained:
                behind = {id(tensor) for tensor in model.parameters()} - {id(p) for p in model.base_model.parameters()}
                head = [path for path, tensor in model.named_parameters() if id(tensor) in behind]
                got, beside, made = trained(model, found.arguments)
                assert got == wanted, (title, name, found.arguments)
                if found.arguments["task_type"] == "SEQ_CLS":
                    assert type(made) is peft.PeftModelForSequenceClassification
                    copies = {
                        path.replace(".modules_to_save.default", "").removeprefix("base_model.model.")
                        for path in beside
                    }
                    assert copies == set(head), (title, name)
                else:
                    assert not beside, (title, name)


@pytest.mark.parametrize(("name", "head"), TELLING)
def test_peft_trains_exactly_the_named_modules_in_every_class(name: str, head: bool, folders: Any) -> None:
    outputs = outputs_for(folders(name), head=head)
    *named, first, second = module_sets(linear_blocks(outputs), 2, name)
    check(outputs, [named[0], named[len(named) // 2], first, second])


@pytest.mark.sweep
@pytest.mark.parametrize("head", [False, True], ids=["prompt", "head"])
@pytest.mark.parametrize("name", FAMILIES)
def test_peft_trains_exactly_the_named_modules_of_every_family(name: str, head: bool, folders: Any) -> None:
    try:
        outputs = outputs_for(folders(name), head=head)
    except ft.ForetuneError as error:
        pytest.skip(str(error))
    blocks = linear_blocks(outputs)
    if not blocks:
        pytest.skip("no linear layers")
    check(outputs, module_sets(blocks, 6, name))


@pytest.mark.parametrize(
    ("name", "head", "task_type"),
    [
        ("llama", False, "CAUSAL_LM"),
        ("bert", False, None),
        ("bert-body", True, "SEQ_CLS"),
        ("llama", True, "SEQ_CLS"),
    ],
)
def test_the_task_type_is_that_of_what_answers(name: str, head: bool, task_type: str | None, folders: Any) -> None:
    outputs = outputs_for(folders(name), head=head)
    found = lora_config(outputs, classes_for(outputs), linear_blocks(outputs)[:1], 4, ALPHA)
    assert found.arguments["task_type"] == task_type


@pytest.mark.parametrize(
    ("name", "head"), [("llama", False), ("bert-body", True), ("deepseek-v3", False), ("gpt2", False)]
)
def test_the_python_and_the_json_make_one_config(name: str, head: bool, folders: Any) -> None:
    outputs = outputs_for(folders(name), head=head)
    blocks = linear_blocks(outputs)
    found = lora_config(outputs, classes_for(outputs), [blocks[0], blocks[-1]], 4, ALPHA)
    snippet = python_snippet(found, "AdamW.", head_note(outputs, found))
    assert max(map(len, [line for line in snippet.splitlines() if line.startswith("#")])) <= 100
    scope: dict[str, Any] = {"model": getattr(transformers, found.trained).from_config(outputs.lm.module.config)}
    exec(snippet, scope)  # noqa: S102
    read = peft.LoraConfig(**found.arguments)
    for field in ("r", "lora_alpha", "target_modules", "target_parameters", "layers_to_transform", "layers_pattern",
                  "task_type", "bias", "lora_dropout", "fan_in_fan_out"):  # fmt: skip
        made = getattr(scope["config"], field)
        assert (set(made) if isinstance(made, (set, list)) else made) == (
            set(wanted) if isinstance(wanted := getattr(read, field), (set, list)) else wanted
        ), field
    assert ("starts at random and pools in its own way" in " ".join(snippet.replace("\n# ", " ").split())) == head


def test_a_set_that_no_form_names_is_refused_and_says_what_peft_said(folders: Any) -> None:
    outputs = outputs_for(folders("mamba"), head=False)
    classes, linear = classes_for(outputs), [name for name, kind in outputs.kinds().items() if kind == "linear"]
    assert set(refused_modules(classes, linear)) == {"out_proj"}
    with pytest.raises(UsageError, match="'out_proj' is incompatible with Mamba"):
        lora_config(outputs, classes, [name for name in linear if "out_proj" in name], 4, ALPHA)
    with pytest.raises(UsageError, match=r"No module backbone\.layers\.9\.mixer\.in_proj"):
        lora_config(outputs, classes, ["backbone.layers.9.mixer.in_proj.weight"], 4, ALPHA)


def test_lora_candidates_are_without_what_peft_refuses_and_say_so(folders: Any) -> None:
    outputs = outputs_for(folders("mamba"), head=False)
    found = adaptable(outputs, outputs.kinds())
    assert "out_proj" not in found.targets
    assert "leave out out_proj. peft says" in found.notes[0]
    _, lora, *_ = formulas_for(outputs.kinds(), targets=found.targets)
    assert not any("out_proj" in name for name in lora.blocks(outputs.kinds()))
    bare = adaptable(outputs, {name: kind for name, kind in outputs.kinds().items() if kind != "linear"})
    assert bare.targets == () and "no weight of a linear layer" in bare.notes[0]
    assert [formula.label for formula in formulas_for(outputs.kinds(), targets=bare.targets)] == ["sgd"]


def test_tuned_adapters_are_refused_where_peft_refuses_and_the_hint_works(folders: Any) -> None:
    outputs = outputs_for(folders("mamba"), head=False)
    with pytest.raises(UsageError, match="Leave them out: --target-modules ") as refusal:
        LoRATuning(2).start(outputs)
    targets = tuple(str(refusal.value).rpartition("--target-modules ")[2].rstrip(".").split(","))
    started = LoRATuning(2, targets=targets).start(outputs)
    assert {name.partition(".lora_")[0].rpartition(".")[2] for name in started.parameters() if "lora_" in name} == set(
        targets
    )


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3-next"])
def test_tuned_adapters_start_as_their_kernel_says(name: str, folders: Any) -> None:
    outputs = outputs_for(folders(name), head=False)
    formula = ft.LoRA(2, targets=("gate_proj", "down_proj", "o_proj"))
    kernel = ft.block_kernels(outputs, ROWS[:1], formula=formula)
    lm = adapted(outputs, formula)
    tuned = ft.AnswerLogits(lm, TASK)
    module: Any = tuned.module.requires_grad_(True)
    module(tuned.batch(ROWS[:1])).sum().backward()
    base = module.model.get_base_model()
    for block, value in zip(kernel.names, kernel.array[:, 0, 0, 0, 0], strict=True):
        gradient = base.get_submodule(block.removesuffix(".weight")).lora_B["default"].weight.grad
        assert 0.0 if gradient is None else float(gradient.square().sum()) == pytest.approx(value, rel=1e-4), block


def test_a_target_that_matches_nothing_is_refused_beside_one_that_does(folders: Any, tmp_path: Path) -> None:
    outputs = outputs_for(folders("bert-body"), head=True)
    with pytest.raises(UsageError, match=r"The LoRA target 'nope' matches no linear layer"):
        ft.LoRA(targets=("query", "nope")).blocks(outputs.kinds())
    with pytest.raises(UsageError, match=r"'quary' matches no linear layer.*Did you mean 'query'"):
        LoRATuning(targets=("value", "quary")).start(outputs)
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(f'{{"text": "a film {n}", "label": "{"ab"[n % 2]}"}}' for n in range(24)))
    common = (folders("bert-body"), data, "--k", 2, "--test", 4, "--output", "head", "--target-modules", "query,nope")
    for command in (("kernel", *common, "--formula", "lora"), ("tune", *common, "--method", "lora", "--steps", 1)):
        said = run_cli(*command, "--out", tmp_path / command[0])
        assert said.returncode == 2 and "'nope' matches no linear layer" in said.stderr, said.stderr


SERVED = {
    "jamba": {"dt_proj"},  # the weight is read outside of its layer
    "mobilebert": {"cls.predictions.dense"},
    "llama4": {"router"},  # the layer answers with two tensors
    "llama": set(),
    "gpt2": set(),
    "falcon-7b": set(),  # its linear layers are of a class of its own
    "qwen2-moe": set(),
}


@pytest.mark.parametrize("name", SERVED)
def test_the_kernel_of_every_adapted_block_is_that_of_the_gradient_of_a_real_adapter(folders: Any, name: str) -> None:
    outputs = ft.AnswerLogits(
        dataclasses.replace(ft.load_model(folders(name), dtype="float64"), tokenizer=tokenizer()), TASK
    )
    left_out = {block.removesuffix(".weight") for block in outputs.bypassed()}
    ends = SERVED[name]
    assert all(any(module.endswith(end) for end in ends) for module in left_out) and bool(left_out) == bool(ends)
    formula = ft.LoRA(rank=3, alpha=5.0)
    rows = [row["text"] for row in ROWS[:2]]
    kernel = ft.kernels_of(ft.separate_job(outputs, rows, None, None), [formula])[formula.label]
    assert kernel.names and not left_out & {block.removesuffix(".weight") for block in kernel.names}
    model: Any = copy.deepcopy(outputs.lm.module)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    model.requires_grad_(False)
    layers = {}
    for block in kernel.names:  # peft's own layer instead of each module: no choice of names in between
        path = block.removesuffix(".weight")
        parent = model.get_submodule(path.rpartition(".")[0])
        base = model.get_submodule(path)
        config = peft.LoraConfig(r=3, lora_alpha=5.0, fan_in_fan_out=type(base).__name__ == "Conv1D")
        layers[block] = layer = peft.tuners.lora.Linear(
            base, "default", config, r=3, lora_alpha=5, fan_in_fan_out=config.fan_in_fan_out
        )
        a = layer.lora_A["default"].weight
        a.data = torch.from_numpy(formula.matrix(block, a.shape[1]))
        layer.lora_B["default"].weight.data = torch.zeros_like(layer.lora_B["default"].weight, dtype=torch.float64)
        setattr(parent, path.rpartition(".")[2], layer)
    model.eval()
    matrices = [layer.lora_B["default"].weight.requires_grad_(True) for layer in layers.values()]
    for place, row in enumerate(rows):
        batch = outputs.batch([row])
        given = {key: value for key, value in batch.items() if key != "position"}
        logits = model(**given).logits[0, batch["position"][0]][outputs.module.output_layer.ids]
        difference = logits[1] - logits[0]
        gradients = torch.autograd.grad(difference, matrices, allow_unused=True)
        squares = [0.0 if gradient is None else float((gradient**2).sum()) for gradient in gradients]
        np.testing.assert_allclose(kernel.array[:, place, 0, place, 0], squares, rtol=1e-6, atol=1e-12 * max(squares))


def test_a_layer_that_no_adapter_serves_is_refused_by_name_and_noted(folders: Any, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"a good film {n},{n % 2}\n" for n in range(16)))
    for command in (["kernel", "--formula", "lora"], ["tune", "--method", "lora"]):
        options = [*command[1:], "--target-modules", "dt_proj,q_proj", "--output", "head", "--k", 2]
        said = run_cli(command[0], folders("jamba"), data, *options, "--out", tmp_path / command[0])
        assert said.returncode == 2 and not said.stdout, said.stderr
        assert "No adapter serves the LoRA target 'dt_proj'" in said.stderr, said.stderr
        assert "--target-modules q_proj" in " ".join(said.stderr.split()), said.stderr
    said = run_cli(
        "kernel", folders("llama4"), data, "--formula", "lora", "--output", "head", "--out", tmp_path / "k", "--k", 2
    )
    assert said.returncode == 0 and "LoRA leaves out router" in said.stdout + said.stderr, said.stderr
    outputs = outputs_for(folders("llama4"), head=True)
    able = adaptable(outputs, outputs.kinds())
    assert any("leaves out router, model.layers.1.feed_forward.router.weight" in note for note in able.notes), (
        able.notes
    )
