"""The options that `forecast` and `kernel` share: one table for flags, YAML files and the record of a run.

Every field of `Settings` is an option; a YAML file given by `--config` sets the same names, and each output folder
holds such a file (`run.yaml`) that repeats the run.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from foretune.errors import UsageError, nearest


def _config(context: typer.Context, file: Path | None) -> Path | None:
    """Take defaults for all options from a YAML file."""
    if file is None:
        return None
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the settings file {file}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{file}: expected `option: value` lines, got {type(values).__name__}.")
    known = [parameter.name for parameter in context.command.params if parameter.name not in (None, "config")]
    for key in values:
        if str(key).replace("-", "_") not in known:
            raise UsageError(f"{file}: unknown option {key!r}.{nearest(str(key), known)} Known: {', '.join(known)}.")
    given = {str(key).replace("-", "_"): value for key, value in values.items()}
    context.default_map = {**(context.default_map or {}), **given}
    return file


Model = Annotated[
    str, typer.Argument(help="smollm2, minilm, a hub id, a model folder, or a .gguf file.", show_default=False)
]
Data = Annotated[
    str, typer.Argument(help="A task name, a .jsonl/.csv/.parquet file, or a hub dataset id.", show_default=False)
]
Config = Annotated[
    Path | None, typer.Option(help="YAML file with any of these options.", callback=_config, is_eager=True)
]

_DATA, _OUTPUT, _COMPUTE, _RESULT = "Data", "Outputs", "Computation", "Results"


def _option(text: str, panel: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


@dataclass(frozen=True)
class Settings:
    """What a run needs to know."""

    model: Model
    data: Data
    config: Config = None
    text: Annotated[str | None, _option("Column with the text.  [default: text]", _DATA)] = None
    text2: Annotated[str | None, _option("Column with the second text of a pair.", _DATA)] = None
    label: Annotated[str | None, _option("Column with the label.  [default: label]", _DATA)] = None
    labels: Annotated[str | None, _option("Label names in order, comma-separated.  [default: as found]", _DATA)] = None
    data_split: Annotated[str, _option("Split of a hub dataset.", _DATA)] = "train"
    data_revision: Annotated[str | None, _option("Revision of a hub dataset.", _DATA)] = None
    k: Annotated[int, _option("Training examples per label, and as many for validation.", _DATA, "--k")] = 16
    test: Annotated[int, _option("At most this many test examples.", _DATA)] = 64
    seed: Annotated[int, _option("Seed of the few-shot split and of a new head.", _DATA)] = 13
    output: Annotated[
        str, _option("prompt (label words), head, or auto (a prompt where the model has words).", _OUTPUT)
    ] = "auto"
    task: Annotated[str | None, _option("Take template, words and metric from this task.", _OUTPUT)] = None
    template: Annotated[str | None, _option("Prompt, such as '{text} It was {mask} .'", _OUTPUT)] = None
    words: Annotated[str | None, _option("Label words, such as negative=terrible,positive=great.", _OUTPUT)] = None
    metric: Annotated[str | None, _option("accuracy or f1.", _OUTPUT)] = None
    pooling: Annotated[
        str | None, _option("Features of a head: mean, cls or last.  [default: mean; last for causal models]", _OUTPUT)
    ] = None
    difference: Annotated[bool, _option("Two classes: one output f1 - f0 instead of two.", _OUTPUT)] = True
    max_length: Annotated[
        int | None, _option("Longest input in tokens; the text is cut, the prompt never.", _OUTPUT)
    ] = None
    blocks: Annotated[str | None, _option("Only parameters that match these globs, comma-separated.", _COMPUTE)] = None
    dtype: Annotated[str, _option("float32, float64, bfloat16 or float16.", _COMPUTE)] = "float32"
    device: Annotated[str, _option("cpu, cuda, cuda:1, mps.", _COMPUTE)] = "cpu"
    revision: Annotated[str | None, _option("Revision of a hub model.", _COMPUTE)] = None
    memory: Annotated[str, _option("Budget above the model's own memory.", _COMPUTE)] = "2GiB"
    trust_remote_code: Annotated[bool, _option("Run Python code that comes with the model.", _COMPUTE)] = False
    plan: Annotated[bool, _option("Print time, memory and disk needed, and stop.", _COMPUTE, "--plan")] = False
    json: Annotated[Path | None, _option("Write everything, unrounded, to this file.", _RESULT, "--json")] = None
    out: Annotated[
        Path | None, _option("Folder for the kernel and run.yaml; a stopped run there is resumed.", _RESULT)
    ] = None
    debug: Annotated[bool, _option("Show tracebacks.", _RESULT, "--debug")] = False

    def as_yaml(self, command: str) -> str:
        """The settings as a file for `--config`, with the command that repeats the run."""
        import yaml

        hidden = {"config", "plan", "debug"}
        values = {
            field.name: str(value) if isinstance(value, Path) else value
            for field in dataclasses.fields(self)
            if field.name not in hidden and (value := getattr(self, field.name)) is not None
        }
        head = f"# foretune {command} {self.model} {self.data} --config run.yaml\n"
        return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def with_settings(run: Callable[[Settings], None]) -> Callable[..., None]:
    """A typer command whose parameters are the fields of `Settings`."""

    def command(**values: Any) -> None:
        run(Settings(**values))

    hints = get_type_hints(Settings, include_extras=True)
    parameters = []
    for field in dataclasses.fields(Settings):
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {field.name: hints[field.name] for field in dataclasses.fields(Settings)}
    command.__doc__, command.__name__ = run.__doc__, run.__name__
    return command
