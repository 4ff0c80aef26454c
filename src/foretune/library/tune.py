"""`tune` as a function: fine-tuning into a folder, and the tuned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from foretune.cli.from_forecast import recommended_options
from foretune.cli.tune import RunRecipe, loaded_run, made_run, read_recipe
from foretune.errors import UsageError
from foretune.experiment.folder import FORECAST
from foretune.finetune.run import Run
from foretune.library.calm import calm
from foretune.library.forecast import Forecast
from foretune.library.given import asked_groups, function_options, must_be_given, told
from foretune.library.result import Result, flat, frame
from foretune.model.load import LanguageModel
from foretune.text.task import Task

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class TunedRun(Result):
    """A finished run: what `ft.tune` gives back, and what a folder of `foretune tune --out` holds.

    Attributes:
        page: the answer, its tables, figures and notes as data.
        folder: folder of the run.
        recipe: options of the run, where it was trained by this process; None where it was read.
    """

    recipe: RunRecipe | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "tune"

    @property
    def place(self) -> Path:
        """The folder of the run.

        Raises:
            UsageError: it is not known: the result was read from a file.
        """
        if self.folder is None:
            raise UsageError("This result was read from a file, which holds no weights. Load the folder of the run.")
        return self.folder

    def run(self) -> Run:
        """The run with its model: `run.outputs` is the model as a function, with its head where it has one.

        Raises:
            UsageError: a part of the run is missing, or its rows were in memory and it was read from a folder.
            ModelError: the model it started from cannot be loaded.
        """
        with calm(None):
            return loaded_run(self.place, self.recipe or read_recipe(self.place))

    def model(self) -> LanguageModel:
        """The tuned model and its tokenizer, with the weights of the best checkpoint; adapters stay adapters (peft).

        A head that was trained is in `run().outputs`. Raises as `run` does.
        """
        return self.run().outputs.lm

    def to_frame(self) -> pandas.DataFrame:
        """The evaluations, one per row: stage, step, losses (nats) and scores (of 1)."""
        rows = []
        for number, stage in enumerate(self.record["stages"]):
            for each in stage["history"]:
                rows.append({"stage": number, "method": stage["method"], **flat(each)})
        return frame(rows)


@told("tune")
def tune(
    model: Any = None,
    data: Any = None,
    *,
    out: str | Path,
    tokenizer: Any = None,
    forecast: Forecast | str | Path | None = None,
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    revision: str | None = None,
    kind: Literal["causal", "masked", "encoder"] | None = None,
    trust_remote_code: bool = False,
    text: str | None = None,
    text2: str | None = None,
    label: str | None = None,
    labels: str | Sequence[str] | None = None,
    data_split: str | None = None,
    data_revision: str | None = None,
    max_labels: int | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    validation_data: Any = None,
    test_data: Any = None,
    k: int | None = None,
    n: int | None = None,
    full_data: bool = False,
    test: int = 64,
    seed: int = 13,
    output: Literal["auto", "prompt", "head"] = "auto",
    task: str | Path | Task | None = None,
    prompt: str | None = None,
    template: str | None = None,
    words: str | Mapping[str, str] | None = None,
    first_piece: bool = False,
    metric: Literal["accuracy", "f1", "matthews"] | None = None,
    head: Literal["probe", "random"] = "probe",
    pooling: Literal["mean", "cls", "last"] | None = None,
    difference: bool = True,
    max_length: int | None = None,
    method: Literal["ft", "lora", "lp", "lp-ft", "lp-lora", "bitfit", "linearized"] = "ft",
    layers: str | int | Sequence[int] | None = None,
    rank: int = 8,
    alpha: float = 16.0,
    target_modules: str | Sequence[str] = "all-linear",
    init: Literal["kaiming", "gaussian"] = "kaiming",
    rslora: bool = False,
    draw_seed: int = 0,
    parameters: str | Sequence[str] | None = None,
    exclude_head: bool = False,
    head_learning_rate: float = 0.001,
    optimiser: Literal["adamw", "sgd", "signgd"] = "adamw",
    learning_rate: float | None = None,
    loss: Literal["cross-entropy", "squared"] = "cross-entropy",
    batch_size: int | None = None,
    proximal: float | None = None,
    micro_batches: int = 1,
    steps: int | None = None,
    epochs: float | None = None,
    evaluate_every: int | None = None,
    best_by: Literal["score", "loss"] = "score",
    schedule: Literal["constant", "linear", "cosine"] = "constant",
    clip: float | None = None,
    dropout: bool = True,
    precision: Literal["full", "bf16"] = "full",
    training_seed: int = 0,
    report_to: str | Sequence[str] | None = None,
    grid: Literal["paper"] | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    address: str | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    progress: bool = False,
) -> TunedRun:
    """Fine-tune a model on data into a folder, keep the best checkpoint by validation, and test it.

    The run is that of `foretune tune` with the same options. A stopped run in the folder is resumed, a finished one read.

    Args:
        model: see `ft.forecast`; with `forecast`, the forecast's own.
        data: see `ft.forecast`; with `forecast`, the forecast's own.
        out: folder of the run.
        tokenizer: of a model in memory.
        forecast: train what this forecast recommends, on its rows, as it says: a `Forecast`, or forecast.json or its
            folder. An option here that is not at its default comes first.
        progress: show on standard error how far the work is.

    Raises:
        UsageError: an option that cannot be meant as it stands, a folder of another run, or a forecast that recommends
            nothing.
        DataError: rows that cannot be used.
        ModelError: a model that cannot be loaded, or that does not fit the data.
        NonFiniteError: the loss became infinite or undefined.
        StorageError: the folder cannot be written.
    """
    given = dict(locals())
    given |= _recommended(given)
    missing = [name for name in ("model", "data") if given[name] is None]
    if missing:
        raise UsageError(f"tune needs {' and '.join(missing)}: ft.tune(model, data, out=...).")
    with calm(model):
        groups = asked_groups("tune", given)
        report, by = groups.pop("report"), groups.pop("workers")
        recipe = RunRecipe(**groups)
        return TunedRun(made_run(recipe, report, by), recipe.run.out, recipe=recipe)


def _recommended(given: dict[str, Any]) -> dict[str, Any]:
    """The options that a forecast recommends, where those given are at their defaults; and the forecast as a file.

    Raises:
        UsageError: the forecast recommends no run.
    """
    forecast = given["forecast"]
    if forecast is None:
        return {}
    record = forecast if isinstance(forecast, Forecast) else Forecast.load(forecast)
    place = None if isinstance(forecast, Forecast) else Path(forecast)
    options, defaults = recommended_options(record.record, place), function_options("tune")
    free = [name for name in options if name in given and given[name] in (defaults[name], None)]
    file = record.folder / FORECAST if record.folder is not None else None
    needed = must_be_given("tune") - set(options)
    return {**{name: options[name] for name in free if name not in needed}, "forecast": file}
