"""Model folders as people have them, looked at before a library opens them: is a file missing, cut short, another?"""

from __future__ import annotations

import json
import re
import struct
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foretune.errors import ModelError, UsageError

_POINTER = b"version https://git-lfs"
_LENGTH = struct.Struct("<Q")
_GGUF = b"GGUF"
_LARGEST_HEADER = 100_000_000  # as safetensors has it

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PART = re.compile(r"model-\d+-of-\d+\.safetensors")
_EXPERT = re.compile(r"\.experts\.\d+\.")

_WEIGHT = ".weight"
_SMALL_FLOATS = ("F8_", "F4", "F6_")
"""How safetensors names floating point numbers that stand for others by a scale."""
_INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")

_MERGING = {"CAUSAL_LM": "AutoPeftModelForCausalLM", "SEQ_CLS": "AutoPeftModelForSequenceClassification"}
"""The class of peft that loads an adapter with its base model, by the task that the adapter was made for."""


@dataclass(frozen=True)
class Stored:
    """What a safetensors file says of a tensor: the kind of its numbers (`F32`, `I8`) and its shape."""

    kind: str
    shape: tuple[int, ...]


def check_weights_folder(name: str, folder: Path) -> None:
    """See that a folder holds a model in safetensors files, each of them whole.

    Raises:
        UsageError: the folder holds no model.
        ModelError: it is an adapter, its weights are pickle files, a file of weights is
            missing, empty, cut short, has another name, or stands for one that was never downloaded, a tensor stands in
            two files, or weights are packed numbers and config.json does not say how.
    """
    if (folder / "adapter_config.json").exists():
        raise _adapter(name, folder)
    if not (folder / "config.json").exists():
        raise UsageError(
            f"{name} is a folder without config.json. Expected a model folder as save_pretrained writes it: config.json, "
            "*.safetensors and the tokenizer's files."
        )
    indexed = _indexed(folder)
    outside = sorted(file for file in indexed if file != Path(file).name)
    if outside:
        raise ModelError(
            f"{_index(folder)} names {outside[0]!r}, which is not a file of this folder. Expected file names without "
            "folders."
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _no_safetensors(name, folder)
    for missing in sorted(indexed - {file.name for file in files}):
        if not (folder / missing).exists():
            raise ModelError(
                f"{name} lacks the file {missing}, which {_index(folder).name} names. Copy or download it again; a model "
                "is whole only with all of its parts."
            )
    _check_names(name, {file.name for file in files}, indexed)
    stored = {file.name: check_safetensors(file) for file in files}
    _check_packed(name, folder, _read(folder, stored, indexed))


def check_downloaded(name: str, folder: Path) -> None:
    """See of a folder that a library has downloaded and read that its weights are not packed numbers without a key.

    Raises:
        ModelError: they are.
    """
    stored = {file.name: check_safetensors(file) for file in folder.glob("*.safetensors")}
    _check_packed(name, folder, _read(folder, stored, _indexed(folder)))


def _check_names(name: str, files: set[str], indexed: set[str]) -> None:
    """See that the files of weights are those that are read, and all of those.

    Raises:
        ModelError: they are not; the message says which.
    """
    parts = sorted(file for file in files - indexed if _PART.fullmatch(file))
    if _WHOLE in files and (indexed or parts):
        raise ModelError(
            f"{name} holds its weights twice: in {_WHOLE}, and in parts ({min([*parts, *indexed])} and so on). Move one of "
            "the two out of the folder, so that it is clear which is meant."
        )
    if parts and not indexed:
        raise ModelError(
            f"{name} has its weights in {len(parts)} parts, {parts[0]} the first of them, but lacks {_INDEX}, which says "
            "what each of them holds. Copy or download that file too."
        )
    if parts:
        raise ModelError(
            f"{name} holds {parts[0]}, which {_INDEX} does not name, so it would not be read. Copy the model again, or "
            "move that file out of the folder."
        )
    if _WHOLE not in files and not indexed:
        found = ", ".join(sorted(files))
        raise ModelError(
            f"{name} has its weights in {found}; expected the name {_WHOLE}, or parts with {_INDEX}. If that is the model "
            f"of this config.json, give the file the name {_WHOLE}."
        )


def _read(folder: Path, stored: Mapping[str, Mapping[str, Stored]], indexed: set[str]) -> dict[str, Stored]:
    """The tensors of the files that a library reads, by name.

    Raises:
        ModelError: two of the files hold a tensor of the same name.
    """
    found: dict[str, Stored] = {}
    where: dict[str, str] = {}
    for file in [_WHOLE] if _WHOLE in stored else sorted(indexed & set(stored)):
        twice = sorted(stored[file].keys() & found.keys())
        if twice:
            raise ModelError(
                f"The tensor {twice[0]} stands in {where[twice[0]]} and in {file} of {folder}; expected each tensor once. "
                "Copy or download the model again."
            )
        found |= stored[file]
        where |= dict.fromkeys(stored[file], file)
    return found


def _check_packed(name: str, folder: Path, tensors: Mapping[str, Stored]) -> None:
    packed = {key: each.kind for key, each in tensors.items() if _is_packed(key, each.kind)}
    if packed and not _says_how_packed(folder):
        key, kind = min(packed.items())
        raise ModelError(
            f"{name} has {len(packed)} weights as packed numbers ({key} is {kind}), but its config.json has no "
            "quantization_config that says what they stand for. Put the right config.json beside the weights, or take "
            "the model as it was before: float32, float16 or bfloat16."
        )


def odd_expert(folder: Path) -> str:
    """What makes the experts of a mixture differ, so that they cannot be laid on top of each other; empty where nothing.

    Raises:
        ModelError: see `check_safetensors`.
    """
    shapes: dict[str, dict[tuple[int, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(folder.glob("*.safetensors")):
        for key, each in check_safetensors(file).items():
            if _EXPERT.search(key):
                shapes[_EXPERT.sub(".experts.*.", key)][each.shape].append(key)
    for alike in shapes.values():
        if len(alike) > 1:
            rare, usual = (
                min(alike, key=lambda shape: len(alike[shape])),
                max(alike, key=lambda shape: len(alike[shape])),
            )
            return f"{alike[rare][0]} is {rare}, while {alike[usual][-1]} is {usual}"
    counts = {pattern: sum(map(len, alike.values())) for pattern, alike in shapes.items()}
    layers: dict[str, dict[str, int]] = defaultdict(dict)
    for pattern, count in counts.items():
        layers[pattern.partition(".experts.*.")[0]][pattern] = count
    for found in layers.values():
        if len(set(found.values())) > 1:
            fewest, most = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
            return f"there are {found[fewest]} tensors {fewest}, but {found[most]} tensors {most}"
    return ""


def _is_packed(key: str, kind: str) -> bool:
    """Whether the numbers of a tensor stand for others; masks and positions are integers by themselves."""
    return kind.startswith(_SMALL_FLOATS) or (kind in _INTEGERS and key.endswith(_WEIGHT))


def _says_how_packed(folder: Path) -> bool:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # what reads config.json says what is wrong with it
    parts = [part for part in (found, *found.values()) if isinstance(part, dict)] if isinstance(found, dict) else []
    return any(part.get(name) for part in parts for name in ("quantization_config", "compression_config"))


def _adapter(name: str, folder: Path) -> ModelError:
    try:
        found = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base, task = found["base_model_name_or_path"], str(found.get("task_type"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        base, task = "another model", ""
    if (folder / "config.json").exists():
        return ModelError(
            f"{name} holds a model (config.json) and an adapter (adapter_config.json), so it is not clear what is meant. "
            "Move the adapter's files to a folder of their own."
        )
    loader = _MERGING.get(task, "AutoPeftModel")
    return ModelError(
        f"{name} is a peft adapter of {base}, not a model. Name the base model to forecast from it. To go on from the "
        f"adapter, merge it once: peft.{loader}.from_pretrained({name!r}).merge_and_unload().save_pretrained(NEW), "
        "with the tokenizer beside it, and name the new folder."
    )


def _no_safetensors(name: str, folder: Path) -> ModelError:
    pickled = sorted(file.name for end in ("*.bin", "*.pt", "*.pth") for file in folder.glob(end))
    if pickled:
        return ModelError(
            f"{name} has its weights in {pickled[0]}, a pickle file, which can run code when it is opened; foretune "
            "reads safetensors only. If you trust it, convert it once with `transformers`: load it with "
            f"from_pretrained({name!r}, use_safetensors=False) and call save_pretrained on a new folder."
        )
    others = sorted(file.name for file in folder.glob("*.gguf"))
    hint = f" It holds {others[0]}: name that file instead of the folder." if others else ""
    return ModelError(f"{name} is a folder without weights: expected *.safetensors beside config.json.{hint}")


def _index(folder: Path) -> Path:
    return folder / _INDEX


def _indexed(folder: Path) -> set[str]:
    """The files that the index of a model in several parts names."""
    try:
        return set(json.loads(_index(folder).read_text(encoding="utf-8"))["weight_map"].values())
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{_index(folder)} cannot be read: {error}. Copy or download it again.") from error


def check_safetensors(file: Path) -> dict[str, Stored]:
    """See that a safetensors file is one, and as long as its header says.

    Returns:
        The kind and the shape of each tensor.

    Raises:
        ModelError: it is not; the message says what the file is instead, where that can be seen.
    """
    try:
        if not file.is_file():
            raise ModelError(f"{file} is not a file that can be read. Copy or download it again.")
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(_LENGTH.size)
            length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else None
            refuse_stand_in(file, start + opened.read(64))
            opened.seek(_LENGTH.size)
            plausible = length is not None and length <= min(size - _LENGTH.size, _LARGEST_HEADER)
            header = json.loads(opened.read(length)) if plausible else None
        entries = {key: entry for key, entry in (header or {}).items() if key != "__metadata__"}
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        stored = {key: Stored(str(entry["dtype"]), tuple(map(int, entry["shape"]))) for key, entry in entries.items()}
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: its header cannot be read. Copy or download it again.") from error
    if header is None or length is None:
        raise ModelError(f"{file} is not a safetensors file, or only the start of one. Copy or download it again.")
    expected = _LENGTH.size + length + max(ends, default=0)
    if size != expected:
        raise ModelError(f"{file} has {size} bytes, but its header says {expected}. Copy or download it again.")
    return stored


def check_gguf(file: Path) -> None:
    """See that a file starts as a GGUF file does.

    Raises:
        ModelError: it does not; the message says what the file is instead, where that can be seen.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(64)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    refuse_stand_in(file, start)
    if not start.startswith(_GGUF):
        raise ModelError(f"{file} is not a GGUF file: it does not start with GGUF. Copy or download it again.")


def refuse_stand_in(file: Path, start: bytes) -> None:
    """Name what stands where a file of weights should be.

    Raises:
        ModelError: nothing, a pointer of Git LFS, or a web page.
    """
    if not start:
        raise ModelError(f"{file} is empty. Copy or download it again.")
    if start.startswith(_POINTER):
        raise ModelError(
            f"{file} is a pointer of Git LFS, not the file itself. Fetch it: run `git lfs pull` in {file.parent}."
        )
    if start.lstrip()[:1] == b"<":
        raise ModelError(f"{file} is a web page, not a file of weights. Download the file itself again.")
