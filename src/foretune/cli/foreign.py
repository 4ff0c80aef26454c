"""Options as transformers, TRL, peft and lm-eval spell them, read as ours where they mean the same.

`--lora_r 8` is `--rank 8`, on the command line and in a settings file; dashes and underscores are the same everywhere.
What foretune does not have is accepted with the value that leaves it off, and otherwise refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import dataclass

from foretune.cli.ranges import AT_LEAST_1, typed
from foretune.errors import UsageError

SAME: Mapping[str, str] = {
    "bf16": "precision", "eval_steps": "evaluate_every", "init_lora_weights": "init", "limit": "test",
    "lora_alpha": "alpha", "lora_r": "rank", "lora_rank": "rank", "lora_target_modules": "target_modules",
    "lr": "learning_rate", "lr_scheduler_type": "schedule", "max_grad_norm": "clip", "max_seq_length": "max_length",
    "max_steps": "steps",
    "num_train_epochs": "epochs", "optim": "optimiser", "optimizer": "optimiser", "output_dir": "out", "r": "rank",
    "torch_dtype": "dtype", "use_rslora": "rslora",
}  # fmt: skip
"""Their option -> ours with the same meaning."""
VALUES: Mapping[str, Mapping[str, str]] = {
    "bf16": {"true": "bf16", "false": "full"},
    "init_lora_weights": {"true": "kaiming", "gaussian": "gaussian"},
    "optim": dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw")
    | {"sgd": "sgd", "signgd": "signgd"},
    "use_rslora": {"true": "true", "false": "false"},
}
"""Their values -> ours, where these differ."""
OFF: Mapping[str, tuple[str, str]] = {
    "fp16": ("false", "Training in float16 is not supported. Use --precision bf16."),
    "gradient_checkpointing": ("false", "Use --micro-batches to save memory."),
    "label_smoothing_factor": ("0", "Labels are never smoothed."),
    "load_in_4bit": ("false", "Weights are never quantised."),
    "load_in_8bit": ("false", "Weights are never quantised."),
    "lora_dropout": ("0", "Adapters have no dropout of their own."),
    "warmup_ratio": ("0", "Learning rates are not warmed up. Use --schedule constant, linear or cosine."),
    "warmup_steps": ("0", "Learning rates are not warmed up. Use --schedule constant, linear or cosine."),
    "weight_decay": ("0", "Weights do not decay. Use --proximal for a pull towards the pretrained weights."),
}
"""Their options of training that foretune does not have -> the value that leaves them off, and what to do instead."""
INSTEAD: Mapping[str, str] = {
    "dataset": "DATA, the second argument",
    "dataset_name": "DATA, the second argument",
    "device_map": "--device",
    "model": "MODEL, the first argument",
    "model_name_or_path": "MODEL, the first argument",
    "num_fewshot": "--k, the number of training examples per label",
    "shots": "--k, the number of training examples per label",
}
"""Their options that mean something else, and what is typed here."""
_BATCH, _ACCUMULATED = "per_device_train_batch_size", "gradient_accumulation_steps"
_FLAGS = {"bf16", "use_rslora", *(name for name, (off, _) in OFF.items() if off == "false")}
_WORDS = {"true": ("true", "yes", "on", "1"), "false": ("false", "no", "off", "0")}
_TRUTH = {word: truth for truth, words in _WORDS.items() for word in words}


@dataclass(frozen=True)
class Given:
    """An option as it was typed.

    Attributes:
        shown: the option as it was typed, for messages.
        name: name of the option, with underscores.
        value: value of the option; of a flag "true" or "false".
    """

    shown: str
    name: str
    value: str


def own_words(words: Sequence[str], known: Mapping[str, bool]) -> list[str]:
    """The words of a command line in our spelling.

    Args:
        words: what was typed after the command.
        known: the command's options with underscores -> whether it is a flag.

    Raises:
        UsageError: a value that has no meaning here.
    """
    own: list[str] = []
    foreign: list[Given] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            return [*own, *_as_words(own_options(foreign, known), known), word, *waiting]
        shown, separator, value = word.partition("=")
        name = shown.removeprefix("--").replace("-", "_")
        if not word.startswith("--") or name in known or not is_foreign(name, known):
            own.append(typed(name) + separator + value if word.startswith("--") and name in known else word)
            continue
        if not separator and name in _FLAGS:
            value = waiting.pop(0) if waiting and waiting[0].lower() in _TRUTH else "true"
        elif not separator:
            if not waiting:
                raise UsageError(f"{shown} has no value.")
            value = waiting.pop(0)
        foreign.append(Given(shown, name, value))
    return own + _as_words(own_options(foreign, known), known)


def is_foreign(name: str, known: Container[str | None]) -> bool:
    """Whether an option that the command does not have can be read as one that it has."""
    if name in (_BATCH, _ACCUMULATED):
        return "batch_size" in known and (name == _BATCH or "micro_batches" in known)
    return (SAME.get(name) in known) or (name in OFF and "optimiser" in known)


def own_options(given: Sequence[Given], known: Container[str | None]) -> list[tuple[str, str]]:
    """Our options and their values.

    Raises:
        UsageError: a value that has no meaning here.
    """
    found: list[tuple[str, str]] = []
    batch = {each.name: _count(each) for each in given if each.name in (_BATCH, _ACCUMULATED)}
    if batch:
        parts = batch.get(_ACCUMULATED, 1)
        if _BATCH not in batch:
            raise UsageError(
                f"--{_ACCUMULATED} multiplies --{_BATCH}, which is not given. Type the whole batch as --batch-size, and "
                f"--micro-batches {parts} to split it."
            )
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        found.append(("batch_size", str(batch[_BATCH] * parts * processes)))
        found += [("micro_batches", str(parts))] if "micro_batches" in known else []
    for each in given:
        if each.name in OFF:
            _refuse_on(each)
        elif each.name in SAME:
            found.append((SAME[each.name], _value(each)))
    return found


def _count(given: Given) -> int:
    """A whole number of at least 1.

    Raises:
        UsageError: it is not.
    """
    if not given.value.isascii() or not given.value.isdigit():
        raise UsageError(f"{given.shown} is {given.value!r}; expected a whole number of at least 1.")
    AT_LEAST_1.check(given.shown, int(given.value), {})
    return int(given.value)


def _value(given: Given) -> str:
    """The value that we have for theirs.

    Raises:
        UsageError: we have none.
    """
    values = VALUES.get(given.name)
    if values is None:
        return given.value
    value = _TRUTH.get(given.value.lower(), given.value) if "true" in values else given.value
    if value not in values:
        expected = ", ".join(dict.fromkeys(values.values()))
        raise UsageError(
            f"{given.shown} {given.value!r} is not supported. Here the option is {typed(SAME[given.name])}; expected "
            f"{expected}."
        )
    return values[value]


def _refuse_on(given: Given) -> None:
    """See that an option that we do not have is left off.

    Raises:
        UsageError: it is not.
    """
    off, instead = OFF[given.name]
    value = _TRUTH.get(given.value.lower(), given.value) if off == "false" else given.value
    if value != off and (off != "0" or value.strip("0.") != ""):
        raise UsageError(f"{given.shown} {given.value} is not supported. {instead} Leave {given.shown} out.")


def _as_words(options: Sequence[tuple[str, str]], known: Mapping[str, bool]) -> list[str]:
    """Options as they are typed."""
    words = []
    for name, value in options:
        if not known[name]:
            words.append(f"{typed(name)}={value}")
        elif value == "true":
            words.append(typed(name))
    return words


def owners(name: str, options: Mapping[str, Set[str]]) -> str:
    """What is said of their option where this command has none like it; empty for an unknown one.

    Args:
        name: with underscores.
        options: the options of every command, as they are typed.
    """
    ours = (
        typed(SAME[name]) if name in SAME else {_BATCH: "--batch-size", _ACCUMULATED: "--micro-batches"}.get(name, "")
    )
    having = [f"foretune {command}" for command, known in options.items() if ours in known]
    return f"Here it is {ours}, an option of {', '.join(having)}" if having else ""
