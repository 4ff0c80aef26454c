"""Model folders and files that cannot be right are refused through the command line: one message that says what to do."""

from __future__ import annotations

import json
import re
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import foretune as ft
from foretune.errors import UsageError
from foretune.model import load
from foretune.model.gguf import gguf_folder
from tests.cases import tokenizer
from tests.conftest import WORDS, assert_refused, run_cli, write_jsonl
from tests.families import VOCABULARY, saved

Change = Callable[[Path], object]
EVIL = "open({marker!r}, 'w')\nfrom transformers import BertConfig\nclass C(BertConfig): pass\n"


def config(**changes: object) -> Change:
    """Other values in config.json."""

    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        kept = {name: value for name, value in {**found, **changes}.items() if value != "GONE"}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    """Other tensors in model.safetensors."""

    def changed(folder: Path) -> None:
        found = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(change(found), folder / "model.safetensors", metadata={"format": "pt"})

    return changed


def content(change: Callable[[bytes], bytes], name: str = "model.safetensors") -> Change:
    """Other bytes in a file."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def without(*patterns: str) -> Change:
    """Files taken away."""
    return lambda folder: [file.unlink() for pattern in patterns for file in folder.glob(pattern)]


def in_shards(folder: Path) -> None:
    names = sorted(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def with_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))


def adapter_alone(folder: Path) -> None:
    without("config.json")(folder)
    with_adapter(folder)


def with_code(folder: Path) -> None:
    (folder / "evil.py").write_text(EVIL.format(marker=str(folder.parent / "ran")))
    config(model_type="evil", auto_map={"AutoConfig": "evil.C"})(folder)


QUERY = "model.layers.0.self_attn.q_proj"
LLAMA = {
    "no lm_head": (
        weights(lambda all_: {k: v for k, v in all_.items() if "lm_head" not in k}),
        r"no weights for its output layer \(lm_head.weight\).*--kind encoder",
    ),
    "no query": (weights(lambda all_: {k: v for k, v in all_.items() if "q_proj" not in k}), r"lacks 3 .*q_proj.weight"),
    "renamed": (weights(lambda all_: {f"x.{k}": v for k, v in all_.items()}), r"lacks .*It holds x\.lm_head"),
    "more layers": (config(num_hidden_layers=4), r"lacks 9 of the weights.*layers\.3\."),
    "wider": (config(intermediate_size=32), r"other shapes than config.json says.*\(16, 24\), expected \(16, 32\)"),
    "cut weight": (
        weights(lambda all_: {k: v[:8].contiguous() if "q_proj" in k else v for k, v in all_.items()}),
        r"other shapes.*q_proj.weight is \(8, 16\), expected \(16, 16\)",
    ),
    "empty": (content(lambda _: b""), r"model.safetensors is empty"),
    "start": (content(lambda old: old[:100]), r"only the start of one"),
    "a byte short": (content(lambda old: old[:-1]), r"bytes, but its header says"),
    "a header of nothing": (content(lambda _: struct.pack("<Q", 2**60) + b"{}"), r"not a safetensors file"),
    "garbage": (content(lambda old: old[:8] + b"\xff" * (len(old) - 8)), r"header cannot be read"),
    "pointer": (content(lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), r"run `git lfs pull` in"),
    "page": (content(lambda _: b"<!doctype html><p>404"), r"is a web page"),
    "no weights": (without("*.safetensors"), r"a folder without weights"),
    "no config": (without("config.json"), r"a folder without config.json"),
    "a missing part": (in_shards, r"lacks the file model-00002-of-00002.safetensors"),
    "no tokenizer": (without("token*", "special*"), r"[Tt]okenizer"),
    "a string for a size": (config(hidden_size="16"), r"'hidden_size'.*wrong type"),
    "huge": (config(hidden_size=10**8), r"[Cc]annot load|other shapes"),
    "unknown activation": (config(hidden_act="zzz"), r"KeyError: 'zzz'"),
    "unknown type": (config(model_type="new_2031", architectures=["NewForCausalLM"]), r"model type `new_2031`"),
    "no json": (content(lambda _: b"{", "config.json"), r"not a valid JSON file"),
    "broken tokenizer": (content(lambda old: old[:50], "tokenizer.json"), r"Cannot load the model"),
    "an adapter not merged": (
        weights(lambda all_: {**all_, **{f"{QUERY}.lora_{part}.weight": torch.ones(2, 16) for part in "AB"}}),
        r"an adapter that was not merged.*q_proj\.lora_A\.weight.*merge_and_unload",
    ),
    "integers": (
        weights(lambda all_: {k: v.mul(99).to(torch.int8) if "q_proj" in k else v for k, v in all_.items()}),
        r"3 weights as packed numbers .*q_proj.weight is I8.*no quantization_config",
    ),
    "eight bits": (
        weights(lambda all_: {k: v.to(torch.float8_e4m3fn) if "down" in k else v for k, v in all_.items()}),
        r"3 weights as packed numbers .*down_proj.weight is F8_E4M3",
    ),
    "adapter": (adapter_alone, r"a peft adapter of a/b, not a model"),
    "adapter inside": (with_adapter, r"holds a model .* and an adapter"),
    "code": (with_code, r"its own Python code.*--trust-remote-code"),
}  # fmt: skip


@pytest.fixture(scope="session")
def whole_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llama", tmp_path_factory.mktemp("whole") / "llama")


@pytest.mark.parametrize("name", LLAMA)
def test_bad_folders_are_refused_by_name(name: str, whole_llama: Path, tmp_path: Path, data_file: Path) -> None:
    change, message = LLAMA[name]
    folder = tmp_path / "model"
    shutil.copytree(whole_llama, folder)
    change(folder)
    result = run_cli("kernel", folder, data_file, WORDS, "--k", 2, "--test", 4, "--out", tmp_path / "out")
    assert_refused(result, 2 if name == "no config" else 1, re.compile(message))
    assert not (tmp_path / "ran").exists()
    assert "Built-in models" not in result.stderr


NAMES = {
    "nowhere.gguf": r"no model folder or .gguf file nowhere.gguf",
    "../no/such/folder": r"no model folder or .gguf file",
    "https://host/x/y": r"no model folder",
    "": r"is empty",
    "a" * 300: r"File name too long",
    "MiniLM": r"Did you mean 'minilm'",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_name_nothing(name: str, tmp_path: Path, data_file: Path) -> None:
    result = run_cli("kernel", name, data_file, "--k", 2, "--out", tmp_path / "out")
    assert_refused(result, 1 if name == "MiniLM" else 2, re.compile(NAMES[name]))  # without the hub nobody can tell


def test_a_file_that_is_not_a_model_is_a_mistyped_name(tmp_path: Path, data_file: Path) -> None:
    result = run_cli("kernel", data_file, data_file, "--k", 2, "--out", tmp_path / "out")
    assert_refused(result, 2, "is a file; expected a model folder, a .gguf file, a hub id or a built-in name")


def test_a_name_that_the_hub_does_not_know_is_mistyped(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(place: str, **_: object) -> None:
        raise OSError(
            f"{place} is not a local folder and is not a valid model identifier listed on 'https://hub/models'"
        )

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unknown)
    monkeypatch.setattr(load, "hub_answers", lambda: True)
    with pytest.raises(UsageError, match=r"There is no model 'smolm2'.*Did you mean 'smollm2'\?"):
        load.load_model("smolm2")


GGUF = {
    "empty": (b"", "is empty"),
    "magic alone": (b"GGUF", "damaged, cut short"),
    "nothing in it": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "Cannot read the GGUF file"),
    "absurd": (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62), "damaged, cut short"),
    "another file": (b"hello world" * 9, "not a GGUF file"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
}


@pytest.mark.parametrize("name", GGUF)
def test_bad_gguf_files_are_refused(name: str, tmp_path: Path, data_file: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF[name][0])
    result = run_cli("kernel", tmp_path / "m.gguf", data_file, "--k", 2, "--out", tmp_path / "out")
    assert_refused(result, 1, re.compile(GGUF[name][1]))
    assert str(tmp_path / "m.gguf") in result.stderr
    assert "foretune-" not in result.stderr, "a temporary folder is nobody's business"


def test_a_gguf_file_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("foretune.model.gguf.loaded_parts", lambda source, *_: seen.append(source) or 1 / 0)
    monkeypatch.setenv("FORETUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ZeroDivisionError):
        gguf_folder(tmp_path / "m.gguf")
    assert not seen[0].trust_remote_code
    assert Path(seen[0].place) != tmp_path, "what lies beside the file is not looked at"


def test_a_head_is_put_on_a_body_when_asked_for(whole_llama: Path, tmp_path: Path, data_file: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole_llama, folder)
    LLAMA["no lm_head"][0](folder)
    sizes = ("--k", 2, "--test", 4, "--out", tmp_path / "out")
    assert run_cli("kernel", folder, data_file, "--kind", "encoder", *sizes).returncode == 0
    prompted = run_cli("kernel", folder, data_file, "--kind", "encoder", WORDS, *sizes)
    assert_refused(prompted, 2, re.compile("--words is for prompts.*Leave"))
    assert_refused(run_cli("kernel", folder, data_file, "--kind", "causl", *sizes), 2, "Did you mean 'causal'")


def test_a_missing_masked_head_is_not_drawn_at_random(tmp_path: Path) -> None:
    saved("bert-body", tmp_path)
    with pytest.raises(ft.ForetuneError, match=r"no weights for its output layer \(cls\.predictions"):
        ft.load_model(tmp_path, kind="masked")
    config(architectures=["BertForMaskedLM"])(tmp_path)
    with pytest.raises(ft.ForetuneError, match="--kind encoder"):
        ft.load_model(tmp_path)
    assert ft.load_model(tmp_path, kind="encoder").kind == "encoder"


def test_what_no_output_reads_may_be_missing_and_is_the_same_at_every_load(tmp_path: Path) -> None:
    saved("bert", tmp_path)  # its file has no pooler
    bodies = [ft.load_model(tmp_path, kind="encoder").module.state_dict() for _ in range(2)]
    assert all(torch.equal(bodies[0][name], bodies[1][name]) for name in bodies[0])
    assert not bodies[0]["pooler.dense.weight"].any()


def test_tensors_without_a_place_are_noted(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    config(num_hidden_layers=2)(tmp_path)
    with pytest.warns(UserWarning, match="9 tensors that LlamaForCausalLM has no place for: model.layers.2"):
        ft.load_model(tmp_path)


HEADS = {
    "a classifier beside a body": ("bert-body", "classifier.weight", None, "a new head answers"),
    "a classifier beside a masked model": ("bert", "classifier.weight", None, "label words or a new head answer"),
    "a head over values": ("llama", "v_head.summary.weight", None, "label words or a new head answer"),
    "a head of ones own": ("bert-body", "regression.0.weight", None, "a new head answers"),
    "a classifier of a causal model": (
        "llama-classifier",
        "lm_head.weight",
        "causal",
        "label words or a new head answer",
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_trained_head_that_is_not_used_is_named(name: str, tmp_path: Path) -> None:
    family, key, kind, answers = HEADS[name]
    saved(family, tmp_path)
    weights(lambda all_: {**all_, key: torch.ones((VOCABULARY if kind else 3), 16)})(tmp_path)
    head = "score.weight" if kind else key
    with pytest.warns(UserWarning, match=rf"holds a head that \w+ has no place for: {head}. It is not used: {answers}"):
        ft.load_model(tmp_path, kind=kind)


LABELS = {
    "three labels": ("bert-classifier", {"0": "bad", "1": "so so", "2": "good"}, r"of 3 labels \(bad, so so, good\)"),
    "labels without names": ("bert-classifier", {"0": "LABEL_0", "1": "LABEL_1"}, "of 2 labels. Its body is read"),
    "labels of a body": ("bert-body", {"0": "bad", "1": "good"}, r"names 2 labels \(bad, good\). They are not used"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_a_configuration_that_are_not_used_are_said_once(name: str, tmp_path: Path) -> None:
    """Also where the stored classifier has another number of rows than the configuration has labels."""
    family, labels, note = LABELS[name]
    saved(family, tmp_path)
    config(id2label=labels)(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ft.load_model(tmp_path)
    (only,) = [str(each.message) for each in said if "not used" in str(each.message)]
    assert re.search(note, only)


def sentence_encoder(folder: Path, **pooling: object) -> None:
    """What sentence_transformers puts beside a body."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize(
    ("pooling", "stored", "noted"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls", True),
        ({"pooling_mode": "cls"}, "cls", True),
        ({"pooling_mode_mean_tokens": True}, "mean", False),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, None, False),
    ],
)
def test_how_a_sentence_encoder_was_pooled_is_said_where_a_head_reads_otherwise(
    pooling: dict[str, object], stored: str | None, noted: bool, tmp_path: Path, data_file: Path
) -> None:
    saved("bert-body", tmp_path)
    sentence_encoder(tmp_path, **pooling)
    (tmp_path / "model_head.pkl").write_bytes(b"not opened")
    with pytest.warns(UserWarning, match="2_Dense: layers behind its pooling.*without it"):
        lm = ft.load_model(tmp_path)
    assert lm.pooling == stored
    plan = ("kernel", tmp_path, data_file, "--k", 2, "--test", 2, "--out", tmp_path.parent / "out", "--plan")
    for more, said in (((), noted), (("--pooling", "mean"), False)):
        result = run_cli(*plan, *more)
        assert result.returncode == 0, result.stderr
        assert "model_head.pkl: a head that SetFit trained" in result.stderr
        assert ("Use --pooling cls to read it as it was trained" in result.stderr) == said


LEFT_OVER = {
    "a bias": ("llama", f"{QUERY}.bias", True),
    "a scale": ("llama", f"{QUERY}.weight_scale", True),
    "one tensor of a layer": ("llama", "model.layers.3.input_layernorm.weight", True),
    "a bias of a body": ("bert-body", "embeddings.word_embeddings.bias", True),
    "frequencies": ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", False),
    "a mask": ("gpt2", "transformer.h.0.attn.bias", False),
    "what a mask is filled with": ("gpt2", "transformer.h.0.attn.masked_bias", False),
    "positions": ("bert", "bert.embeddings.position_ids", False),
    "a pooler": ("bert", "bert.pooler.dense.weight", False),
    "another head": ("bert", "cls.seq_relationship.weight", False),
    "a body's head": ("bert-body", "cls.predictions.bias", False),
}


@pytest.mark.parametrize("name", LEFT_OVER)
def test_what_the_body_would_compute_with_is_noted_at_any_share(name: str, tmp_path: Path) -> None:
    family, key, noted = LEFT_OVER[name]
    saved(family, tmp_path)
    whole = key.endswith(("position_ids", ".attn.bias"))
    weights(lambda all_: {**all_, key: torch.ones(4, dtype=torch.int64 if whole else torch.float32)})(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ft.load_model(tmp_path)
    notes = [str(each.message) for each in said if "has no place for" in str(each.message)]
    assert bool(notes) == noted, notes
    assert not noted or re.search(rf"holds 1 tensor that \w+ has no place for: {re.escape(key)}", notes[0])


@pytest.mark.parametrize(
    ("packing", "message"),
    [
        ({"quant_method": "unheard_of"}, "does not know the quantization.*unheard_of.*float32"),
        ({"quant_method": "gptq", "bits": 4}, "Cannot load the model.*Install what is named"),
        (None, "no quantization_config"),
    ],
)
def test_packed_weights_are_left_to_transformers_or_refused(packing: object, message: str, tmp_path: Path) -> None:
    saved("llama", tmp_path)
    LLAMA["integers"][0](tmp_path)
    config(quantization_config=packing)(tmp_path)
    with pytest.raises(ft.ForetuneError, match=message):
        ft.load_model(tmp_path)


def test_a_model_without_masks_is_not_loaded_as_masked(whole_llama: Path) -> None:
    with pytest.raises(ft.ForetuneError, match=r"type 'llama' fills in no masks.*Leave out --kind"):
        ft.load_model(whole_llama, kind="masked")


@pytest.mark.parametrize(
    ("name", "changes", "note"),
    [
        ("llama-classifier", {}, "trained classifier .LlamaForSequenceClassification.*not used"),
        ("llama", {"architectures": "GONE"}, "names no architecture.*--kind causal"),
    ],
)
def test_what_a_folder_was_meant_for_and_is_not_used_as_is_said(name, changes, note, tmp_path: Path) -> None:
    saved(name, tmp_path)
    config(**changes)(tmp_path)
    with pytest.warns(UserWarning, match=note):
        lm = ft.load_model(tmp_path)
    assert (lm.kind, lm.left_to_right) == ("encoder", True)


def test_half_precision_is_noted(whole_llama: Path, tmp_path: Path, data_file: Path) -> None:
    result = run_cli("kernel", whole_llama, data_file, WORDS, "--k", 2, "--test", 4, "--dtype", "bfloat16", "--out",
                     tmp_path / "out")  # fmt: skip
    assert "Note: The model computes in bfloat16" in result.stderr


def test_texts_of_another_language_are_noted(whole_llama: Path, tmp_path: Path) -> None:
    rows = [{"text": f"slovo{n} drugo{n} tretje{n}", "label": ("negative", "positive")[n % 2]} for n in range(30)]
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, rows)
    result = run_cli("kernel", whole_llama, file, "--output", "head", "--k", 2, "--test", 4, "--out", tmp_path / "out")
    assert "12 of 12 texts are mostly tokens that the tokenizer does not know" in " ".join(
        result.stderr.split()
    ) + " ".join(result.stdout.split())


def test_a_merged_adapter_is_a_model(tmp_path: Path) -> None:
    saved("llama", tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ft.ForetuneError, match=r"a peft adapter of .*base, not a model.*AutoPeftModelForCausalLM"):
        ft.load_model(tmp_path / "adapter")
    merged = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tokenizer().save_pretrained(tmp_path / "merged")
    assert ft.load_model(tmp_path / "merged").kind == "causal"
