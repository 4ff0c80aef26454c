"""A file of weights that would be read in part, twice, or not at all is refused by name, from a folder and from the hub."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import foretune as ft
from foretune.model.weight_files import check_weights_folder
from tests.conftest import WORDS, assert_refused, run_cli
from tests.families import saved
from tests.test_bad_models import config, weights

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PARTS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]


def written(tensors: dict[str, torch.Tensor], file: Path) -> None:
    save_file(tensors, file, metadata={"format": "pt"})


def in_parts(folder: Path, *, index: bool = True, whole: bool = False, twice: str = "") -> None:
    """A model in two files."""
    tensors = load_file(folder / WHOLE)
    names = sorted(tensors)
    places = {name: PARTS[number % 2] for number, name in enumerate(names)}
    for part in PARTS:
        own = {name: tensors[name] for name in names if places[name] == part}
        written(own | ({twice: tensors[twice] + 1} if twice else {}), folder / part)
    if index:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    if not whole:
        (folder / WHOLE).unlink()


def with_a_third(folder: Path) -> None:
    in_parts(folder)
    written({"model.x": torch.ones(1)}, folder / "model-00003-of-00003.safetensors")


def named(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / WHOLE).rename(folder / name)


FAULTS = {
    "no index": (lambda f: in_parts(f, index=False), r"weights in 2 parts, .*lacks model.safetensors.index.json"),
    "a part too many": (with_a_third, r"holds model-00003-of-00003.safetensors, which .*does not name"),
    "whole and in parts": (lambda f: in_parts(f, whole=True), r"weights twice: in model.safetensors, and in parts"),
    "whole beside parts": (lambda f: in_parts(f, whole=True, index=False), r"holds its weights twice"),
    "a tensor twice": (
        lambda f: in_parts(f, twice="model.norm.weight"),
        r"model.norm.weight stands in model-00001.* and in model-00002.*expected each tensor once",
    ),
    "another name": (named("weights.safetensors"), r"weights in weights.safetensors; expected the name model.safetensors"),
    "a variant": (named("model.fp16.safetensors"), r"in model.fp16.safetensors; expected"),
}  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("name", FAULTS)
def test_files_that_would_not_be_read_as_they_stand_are_refused(name: str, llama: Path, tmp_path: Path) -> None:
    change, message = FAULTS[name]
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    change(folder)
    with pytest.raises(ft.ForetuneError, match=message):
        ft.load_model(folder)


def test_parts_with_their_index_and_other_files_beside_are_read(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    in_parts(folder)
    shutil.copy(llama / WHOLE, folder / "consolidated.safetensors")
    found, expected = (ft.load_model(each).module.state_dict() for each in (folder, llama))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_index_of_the_parts_is_read_once(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = tmp_path / "model", []
    shutil.copytree(llama, folder)
    in_parts(folder)
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **how: read.append(path.name) or read_text(path, **how))
    check_weights_folder("model", folder)
    assert read.count(INDEX) == 1


def test_the_name_that_is_told_works(llama: Path, tmp_path: Path, data_file: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    named("weights.safetensors")(folder)
    run = ("kernel", folder, data_file, WORDS, "--k", 2, "--test", 4, "--out", tmp_path / "out")
    assert_refused(run_cli(*run), 1, "give the file the name model.safetensors")
    (folder / "weights.safetensors").rename(folder / WHOLE)
    assert run_cli(*run).returncode == 0


EXPERTS = {
    "mixtral": "block_sparse_moe.experts.1.w1.weight",
    "qwen3-moe": "mlp.experts.1.down_proj.weight",
    "gpt-oss": "experts.down_proj",
}  # fmt: skip


@pytest.mark.parametrize("family", EXPERTS)
@pytest.mark.parametrize("how", ["cut", "missing"])
def test_an_expert_that_does_not_fit_the_others_is_named(family: str, how: str, tmp_path: Path) -> None:
    saved(family, tmp_path)

    def odd(all_: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        key = next(key for key in all_ if key.endswith(EXPERTS[family]))
        rest = {name: tensor for name, tensor in all_.items() if name != key}
        return rest if how == "missing" else {**rest, key: all_[key][..., :4].contiguous()}

    weights(odd)(tmp_path)
    with pytest.raises(ft.ForetuneError) as found:
        ft.load_model(tmp_path)
    name = EXPERTS[family]
    together = name.replace(".1.", ".").removesuffix(".weight")  # as it is laid on top of the others
    assert any(each in str(found.value) for each in (name, name.replace(".1.", ".*."), together))
    assert "CONVERSION" not in str(found.value)


def as_hub(folder: Path, cache: Path) -> None:
    """A model folder as the hub's client keeps it, by the id somebody/model."""
    commit = "0" * 40
    root = cache / "models--somebody--model"
    shutil.copytree(folder, root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)


PACKED = {
    "integers": lambda all_: {k: v.mul(99).to(torch.int8) if "q_proj" in k else v for k, v in all_.items()},
    "eight bits": lambda all_: {k: v.to(torch.float8_e4m3fn) if "q_proj" in k else v for k, v in all_.items()},
}


@pytest.mark.parametrize("packing", ["integers", pytest.param("eight bits", marks=pytest.mark.sweep)])
def test_packed_weights_from_the_hub_are_seen_as_those_of_a_folder(packing, llama, tmp_path, data_file) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    env = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run = ("kernel", "somebody/model", data_file, WORDS, "--k", 2, "--test", 4, "--out")
    as_hub(folder, tmp_path / "hub")
    whole = run_cli(*run, tmp_path / "whole", env=env)
    assert whole.returncode == 0, whole.stderr
    shutil.rmtree(tmp_path / "hub")
    weights(PACKED[packing])(folder)
    as_hub(folder, tmp_path / "hub")
    message = r"3 weights as packed numbers .*q_proj.weight.*no quantization_config"
    assert_refused(run_cli(*run, tmp_path / "out", env=env), 1, re.compile(message))


KERNELS = [
    "somebody/flash-attention",
    "somebody/flash-attention:function",
    "flash_attention_2",
    "flex_attention",
    "nothing",
]


@pytest.mark.parametrize("attention", [*KERNELS, 7])
def test_attention_that_is_not_plain_is_computed_plainly_and_said(attention, llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    config(attn_implementation=attention)(folder)
    with pytest.warns(UserWarning, match=f"asks for attention by '{attention}'.*attn_implementation='eager'"):
        lm = ft.load_model(folder)
    assert lm.module.config._attn_implementation == "eager"


def test_attention_of_a_part_of_a_model_is_computed_plainly_too(tmp_path: Path) -> None:
    saved("gemma3-images", tmp_path)
    config(attn_implementation={"text_config": "somebody/kernel"})(tmp_path)
    with pytest.warns(UserWarning, match="asks for attention by 'somebody/kernel'"):
        lm = ft.load_model(tmp_path)
    assert lm.module.config.get_text_config()._attn_implementation == "eager"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_plain_attention_is_left_as_it_is(attention: str, llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    config(attn_implementation=attention)(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ft.load_model(folder).module.config._attn_implementation == attention


def test_a_masked_model_asked_for_the_next_word_is_said_to_be_one(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    with pytest.warns(UserWarning, match=r"trained to fill in masks \(BertForMaskedLM\).*Leave --kind out"):
        ft.load_model(tmp_path, kind="causal")
