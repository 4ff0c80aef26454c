"""The files of a run to come, beside its forecast.

train.py                 the run in plain transformers and peft
rows/PART.jsonl          the very rows of train, validation and test, by index and text
head_start.safetensors   the head that it starts with, where a head answers
adapter_start.safetensors the matrices A that it starts with, where adapters are trained
adapter_config.json      peft's own, where adapters are trained
trl.yaml                 the same adapters for `trl sft`, where a causal model answers a prompt
next_run.json            hashes of these files: what is not as foretune wrote it is not replaced
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foretune.handover.next_run import PARTS, NextRun
from foretune.handover.script import ADAPTER, ADAPTER_START, HEAD, OUT, train_script
from foretune.store.atomic import library_writes, refuse_changed, replacing
from foretune.store.kept import DamagedError, read_kept, write_kept
from foretune.store.workspace import temporary_folder

ROWS, SCRIPT, TRL, WRITTEN = "rows", "train.py", "trl.yaml", "next_run.json"
NAMES = (SCRIPT, *(f"{ROWS}/{part}.jsonl" for part in PARTS), HEAD, ADAPTER_START, ADAPTER, TRL)
"""Whatever may be written."""


def refuse_foreign(folder: Path) -> None:
    """See, before the work, that no file of somebody else stands under a name that will be written.

    Raises:
        UsageError: one does.
        StorageError: nothing can be written there.
    """
    if not folder.is_dir():
        return
    ours = _written(folder)
    for name in NAMES:
        refuse_changed(folder / name, partial(_is_ours, hashes=ours.get(name, ())))
    refuse_changed(folder / WRITTEN, lambda _: bool(ours))


def write_next_run(folder: Path, run: NextRun, version: str) -> tuple[str, ...]:
    """Write the files; their names.

    Raises:
        UsageError: a file of somebody else stands under one of the names.
        StorageError: the disk is full or the folder cannot be written.
    """
    refuse_foreign(folder)
    files = next_run_files(run, folder, version)
    before = _written(folder)
    hashes = {name: sorted({*before.get(name, ()), _hash(content)}) for name, content in files.items()}
    write_kept(folder / WRITTEN, {"files": {**before, **hashes}})  # first: a stopped command can be repeated
    for name, content in files.items():
        with library_writes(folder):
            (folder / name).parent.mkdir(exist_ok=True)
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    return tuple(files)


def next_run_files(run: NextRun, folder: Path, version: str) -> dict[str, bytes]:
    """Name -> content of every file.

    Args:
        run: the run.
        folder: where they will stand.
        version: of foretune.
    """
    texts = {SCRIPT: train_script(run, version)}
    for part in PARTS:
        texts[f"{ROWS}/{part}.jsonl"] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in run.rows[part])
    if run.adapter is not None:
        texts[ADAPTER] = _adapter(run)
        if run.causal:
            texts[TRL] = _trl(run, folder)
    files = {name: text.encode() for name, text in texts.items()}
    starts = {HEAD: run.head, ADAPTER_START: run.adapter_start}
    return files | {name: _tensors(values) for name, values in starts.items() if values}


def _tensors(values: Mapping[str, np.ndarray]) -> bytes:
    """A file of safetensors."""
    import torch
    from safetensors.torch import save

    return save({name: torch.from_numpy(value) for name, value in values.items()})


def _adapter(run: NextRun) -> str:
    """`adapter_config.json` as peft writes it; where words answer without a type of task, so that it fits every class."""
    import peft

    arguments = dict(run.adapter or {})
    if run.answers is not None:
        arguments["task_type"] = None
    config = peft.LoraConfig(**arguments, base_model_name_or_path=run.place)
    with temporary_folder() as folder:
        config.save_pretrained(str(folder))
        return (folder / ADAPTER).read_text(encoding="utf-8")


def _trl(run: NextRun, folder: Path) -> str:
    """Settings of `trl sft`."""
    head = (
        f"# trl sft --config {TRL}\n"
        f"# {run.title}: the adapters and rows of {SCRIPT}.\n"
        "# The loss is another one: TRL's is that of the completion among all words, and of the end mark that it\n"
        f"# appends. {SCRIPT} compares the label words alone, as the forecast does.\n"
    )
    adapter = dict(run.adapter or {})
    values: dict[str, Any] = {
        "model_name_or_path": run.place,
        **({"model_revision": run.loading["revision"]} if "revision" in run.loading else {}),
        **({"trust_remote_code": True} if run.loading.get("trust_remote_code") else {}),
        "dtype": run.dtype,
        "dataset_name": str((folder / ROWS).absolute()),
        "dataset_train_split": "train",
        "dataset_test_split": "validation",
        "use_peft": True,
        "lora_r": adapter["r"],
        "lora_alpha": adapter["lora_alpha"],
        "lora_dropout": 0.0,
        "lora_target_modules": list(run.modules),
        "learning_rate": run.learning_rate,
        "lr_scheduler_type": run.schedule,
        "max_steps": run.steps,
        "per_device_train_batch_size": run.batch,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "bf16": False,
        "fp16": False,
        "completion_only_loss": True,
        "max_length": run.limit,
        "eval_strategy": "steps",
        "eval_steps": run.every,
        "logging_steps": run.every,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 0,
        "output_dir": str((folder / f"{OUT}-trl").absolute()),
    }
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _written(folder: Path) -> Mapping[str, list[str]]:
    """Name -> hashes of what foretune has written under it."""
    try:
        return read_kept(folder / WRITTEN)["files"] if (folder / WRITTEN).is_file() else {}
    except (DamagedError, KeyError):
        return {}


def _is_ours(file: Path, hashes: Collection[str]) -> bool:
    return file.is_file() and not file.is_symlink() and _hash(file.read_bytes()) in hashes


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
