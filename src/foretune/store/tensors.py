"""Named tensors in safetensors files that carry their own checksum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from foretune.store.atomic import check_own_file, replacing
from foretune.store.kept import DamagedError, refuse_streams, whole

if TYPE_CHECKING:
    from torch import Tensor

_KEY = "checksum"
_STAGED = 32 * 2**20
"""Bytes of pinned memory that tensors on a GPU come through."""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """XXH3 (128 bits) over names, shapes, dtypes and bytes of the tensors."""
    import torch
    import xxhash

    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        for part in _on_host(tensor.contiguous().reshape(-1).view(torch.uint8)):
            digest.update(part.numpy().data)
    return digest.hexdigest()


def _on_host(values: Tensor) -> Iterator[Tensor]:
    """A vector of bytes in parts; those on a GPU come through pinned memory, at many times the speed."""
    import torch

    if values.device.type != "cuda":
        yield values.cpu()
        return
    staged = torch.empty(min(len(values), _STAGED), dtype=torch.uint8, pin_memory=True)
    for part in values.split(_STAGED):
        yield staged[: len(part)].copy_(part)


def write_tensors(file: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write tensors by name, with their checksum, whole or not at all.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    from safetensors.torch import save_file

    about = {"format": "pt", **metadata, _KEY: fingerprint(tensors)}
    check_own_file(file)
    with replacing(file) as temporary:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, metadata=about)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors that `write_tensors` wrote.

    Raises:
        DamagedError: the file cannot be read, or is not what was written there.
    """
    refuse_streams(file)
    tensors, expected = whole(file, lambda: _read(file))
    if fingerprint(tensors) != expected:
        raise DamagedError(file, "its checksum does not fit its values")
    return tensors


def read_remark(file: Path, name: str) -> str | None:
    """What `write_tensors` was told beside the tensors, for readers only; None where it was not told.

    Raises:
        DamagedError: the file cannot be read.
    """
    from safetensors import safe_open

    def read() -> str | None:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get(name)

    refuse_streams(file)
    return whole(file, read)


def _read(file: Path) -> tuple[dict[str, Tensor], str | None]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() or {}
        return {name: opened.get_tensor(name) for name in opened.keys()}, metadata.get(_KEY)  # noqa: SIM118
