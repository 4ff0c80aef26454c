"""Folders of rows: train.* beside test.*, a clone of a hub dataset with its shards, and what `save_to_disk` wrote.

train.csv  dev.csv  test.csv                    one file per split
data/train-00000-of-00002.parquet ...           shards, as cloned from the hub; the README may name the classes
dataset_info.json, state.json, *.arrow          datasets.Dataset.save_to_disk
dataset_dict.json, train/, test/                datasets.DatasetDict.save_to_disk
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foretune.errors import DataError, UsageError
from foretune.text.files.classes import class_names

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Role -> the names that its file may have."""

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?")


@dataclass(frozen=True)
class Layout:
    """Which files of a folder hold which rows.

    Attributes:
        parts: role -> its files in order; of a saved dataset, its folder.
        names: column -> the names of its class numbers, from the README.
        unused: names of files of rows that no role takes.
        saved: the parts are folders of `save_to_disk`.
    """

    parts: Mapping[str, Sequence[Path]]
    names: Mapping[str, list[str]] = field(default_factory=dict)
    unused: Sequence[str] = ()
    saved: bool = False


def folder_layout(folder: Path, suffixes: Iterable[str]) -> Layout:
    """What a folder holds.

    Args:
        folder: the folder.
        suffixes: ends of the names of files of rows.

    Raises:
        UsageError: there is no training file.
        DataError: several for one role, or a shard is missing.
    """
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return Layout({"train": [folder]}, saved=True)
    if (folder / "dataset_dict.json").is_file():
        return _saved_splits(folder)
    suffixes = tuple(suffixes)
    places = [place for place in (folder, folder / "data") if place.is_dir()]
    found = next((place for place in places if _files(place, suffixes, "train")), None)
    if found is None:
        raise _without_training(folder, suffixes)
    parts = {role: files for role in SPLITS if (files := _files(found, suffixes, role))}
    used = {_resolved(file) for files in parts.values() for file in files}
    others = [*_rows_files(found, suffixes), *_elsewhere(folder, suffixes)]
    left = dict.fromkeys(file for file in others if _resolved(file) not in used)
    unused = [file.name if file.parent == found else str(file.relative_to(folder)) for file in left]
    return Layout(parts, _readme_names(folder / "README.md"), unused)


def _rows_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.name.lower().endswith(suffixes) and not file.name.startswith(".")
    )


def _elsewhere(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of rows in a folder and two levels below it whose name, or whose folder's, is that of a split."""
    known = {name for names in SPLITS.values() for name in names}

    def of_split(file: Path) -> bool:
        stem = _stem(file.name, suffixes).lower()
        shard = _SHARD.fullmatch(stem)
        own = stem if shard is None else shard["stem"]
        return own in known or (file.parent != folder and file.parent.name.lower() in known)

    files = [file for level in ("*", "*/*", "*/*/*") for file in sorted(folder.glob(level))]
    hidden = {file for file in files if any(part.startswith(".") for part in file.relative_to(folder).parts)}
    return [file for file in files if file not in hidden and file.name.lower().endswith(suffixes) and of_split(file)]


def _resolved(file: Path) -> Path:
    """Where a file is; a link that leads to itself stays."""
    try:
        return file.resolve()
    except (OSError, RuntimeError):
        return file


def _stem(name: str, suffixes: tuple[str, ...]) -> str:
    return name[: -len(max((end for end in suffixes if name.lower().endswith(end)), key=len))]


def _files(folder: Path, suffixes: tuple[str, ...], role: str) -> list[Path]:
    """The file of a role, or its shards in order.

    Raises:
        DataError: there are several, or a shard is missing.
    """
    known, single = SPLITS[role], []
    shards: dict[tuple[str, int], dict[int, Path]] = {}
    for file in _rows_files(folder, suffixes):
        stem = _stem(file.name, suffixes)
        shard = _SHARD.fullmatch(stem)
        if stem.lower() in known:
            single.append(file)
        elif shard is not None and shard["stem"].lower() in known:
            shards.setdefault((shard["stem"], int(shard["count"])), {})[int(shard["number"])] = file
    every = [*single, *(file for files in shards.values() for file in files.values())]
    if len(single) + len(shards) > 1:
        raise DataError(
            f"{folder} holds {len(every)} {role} files: {', '.join(sorted(file.name for file in every))}. Expected one; "
            "remove the others, or pass one file."
        )
    for (stem, count), files in shards.items():
        missing = [number for number in range(count) if number not in files]
        if missing:
            raise DataError(
                f"{folder} has {len(files)} of {count} parts of {stem}: {stem}-{missing[0]:05d}-of-{count:05d} is missing. "
                "Fetch the whole dataset again."
            )
        return [files[number] for number in range(count)]
    return single


def _without_training(folder: Path, suffixes: tuple[str, ...]) -> UsageError:
    inner = [
        place.relative_to(folder)
        for place in sorted(folder.glob("*"))
        if place.is_dir()
        and any(_stem(file.name, suffixes).lower().startswith("train") for file in _rows_files(place, suffixes))
    ]
    if inner:
        return UsageError(
            f"{folder}: this folder holds no train file, but several datasets: {', '.join(map(str, inner))}. Pass one of "
            f"them: {folder / inner[0]}."
        )
    held = sorted(file.name for file in folder.iterdir())
    shown = ", ".join(held[:10]) + (f" and {len(held) - 10} more" if len(held) > 10 else "")
    return UsageError(
        f"{folder}: this folder holds no train file, but {shown or 'nothing'}. Expected train.* and test.* with one of "
        f"{', '.join(suffixes)}, a clone of a hub dataset, or a folder made by save_to_disk."
    )


def _saved_splits(folder: Path) -> Layout:
    """The parts of a saved dictionary of datasets."""
    held = sorted(place.name for place in folder.iterdir() if (place / "state.json").is_file())
    parts: dict[str, Sequence[Path]] = {}
    for role, known in SPLITS.items():
        of_role = [name for name in held if name.lower() in known]
        if len(of_role) > 1:
            raise DataError(f"{folder} holds {len(of_role)} {role} parts: {', '.join(of_role)}. Expected one.")
        if of_role:
            parts[role] = [folder / of_role[0]]
    if "train" not in parts:
        raise UsageError(
            f"{folder}: this saved dataset has no train part, but {', '.join(held) or 'none'}. Pass the folder of one part"
            f"{f', {folder / held[0]} for example' if held else ''}."
        )
    used = {place.name for files in parts.values() for place in files}
    return Layout(parts, unused=[name for name in held if name not in used], saved=True)


def _readme_names(readme: Path) -> dict[str, list[str]]:
    """The names of classes that the README of a hub dataset gives; none where it says nothing of them."""
    import yaml

    try:
        head = re.match(r"---\r?\n(.*?)\r?\n---", readme.read_text(encoding="utf-8"), re.S)
        info: Any = yaml.safe_load(head[1]).get("dataset_info") if head else None
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError):
        return {}
    infos = info if isinstance(info, list) else [info]
    if len(infos) != 1 or not isinstance(infos[0], dict):
        return {}
    found = {}
    features = infos[0].get("features")
    for feature in features if isinstance(features, list) else []:
        names = _class_label(feature)
        if names and isinstance(feature.get("name"), str):
            found[feature["name"]] = names
    return found


def _class_label(feature: Any) -> list[str]:
    dtype = feature.get("dtype") if isinstance(feature, dict) else None
    label = dtype.get("class_label") if isinstance(dtype, dict) else None
    return class_names(label.get("names")) if isinstance(label, dict) else []
