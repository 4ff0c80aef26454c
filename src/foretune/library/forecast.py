"""`forecast` as a function: what fine-tuning would reach, what to train, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import foretune
from foretune.candidates.verdict import DECISIONS
from foretune.cli.deliver import check_report_place, keep_report
from foretune.cli.forecast import ForecastRecipe, made_forecast
from foretune.cli.onward import handed_over
from foretune.errors import UsageError
from foretune.experiment.folder import EXPERIMENT, FORECAST
from foretune.handover.files import refuse_foreign
from foretune.handover.next_run import NextRun
from foretune.library.calm import calm
from foretune.library.given import asked_groups, told
from foretune.library.result import Result, flat, frame
from foretune.pages.json import write_page_json
from foretune.store.atomic import check_folder, refuse_changed
from foretune.store.json import is_written_json
from foretune.text.task import Task

if TYPE_CHECKING:
    import pandas
    import peft

_SAME = ("kind", "rank", "blocks", "head")
"""By these a candidate is known."""


@dataclass(frozen=True, repr=False)
class Forecast(Result):
    """A forecast: what `ft.forecast` gives back, and what a folder of `foretune forecast --out` holds.

    Attributes:
        page: the answer, its tables, figures and notes as data.
        folder: where it was written, or read from; None where it is in memory only.
    """

    _next_run: NextRun | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "forecast"

    @property
    def verdict(self) -> str:
        """`help`, `may`, `no` or `cannot tell`: on training what is recommended, or what comes first."""
        return self.record["verdict"]

    @property
    def decision(self) -> str:
        """`go`, `no-go` or `cannot tell`: whether training what is recommended is worth it."""
        return DECISIONS[self.record["verdict"]]

    @property
    def gain(self) -> Mapping[str, Any]:
        """What the verdict rests on: the simulated run's gain on all labelled examples apart from the training ones.

        `value`, its 95% interval `low` and `high` (of the metric, 0 to 1), and how many `examples`.
        """
        return self._predicted["gain"]

    @property
    def loss_gain(self) -> Mapping[str, Any]:
        """The fall of the loss of the same examples below that of the outputs before at their best temperature, in nats.

        The fields are those of `gain`; it decides where the gain alone may be chance.
        """
        return self._predicted["loss_gain"]

    @property
    def _predicted(self) -> Mapping[str, Any]:
        found = self.record["forecast"]
        return (found["recommended"] or found["advice"])["predicted"]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is said of the data and of the kernel, among `notes`."""
        return tuple(self.record["forecast"]["warnings"])

    @property
    def recommended(self) -> Mapping[str, Any] | None:
        """What to train, with its learning rate, steps and predicted score; None after a no."""
        return self.record["forecast"]["recommended"]

    def lora_config(self) -> peft.LoraConfig:
        """The adapters that are recommended, or the best ones where something else is, for `peft.get_peft_model`.

        Raises:
            UsageError: the forecast says no, or no adapters fit.
        """
        from peft import LoraConfig

        arguments = self.record["recommended_lora_config"] or self.record["lora_config"]
        if arguments is None:
            raise UsageError(
                f"This forecast has no adapters to train: its verdict is {self.verdict!r}. `print(forecast)` says why; "
                "`forecast.to_frame()` lists all candidates."
            )
        return LoraConfig(**arguments)

    def to_frame(self) -> pandas.DataFrame:
        """The candidates, one per row, in the order of the record.

        `parameters` is a count; losses are in nats, scores of 1, and `spread` is that of the loss over resamples. `blocks`
        lists the weights that are trained, and `recommended` marks what to train.
        """
        picked = self.recommended
        rows = []
        for each in self.record["forecast"]["comparison"]["candidates"]:
            is_picked = picked is not None and all(picked["candidate"][name] == each[name] for name in _SAME)
            parts = {} if each["spread"] is None else flat(each["spread"], "spread.")
            own = {name: each[name] for name in ("name", "kind", "rank", "parameters", "head")}
            rows.append({**own, "recommended": is_picked, **flat(each["score"]), **parts, "blocks": each["blocks"]})
        return frame(rows)

    def save(self, folder: str | Path) -> None:
        """Write the forecast to a folder: forecast.json, report.html, and train.py with its files.

        `Forecast.load` and `foretune show` read it. `ft.forecast(..., out=folder)` keeps kernels and run.yaml, too.

        Args:
            folder: a new one, or one that foretune made.

        Raises:
            UsageError: it holds something else, or files that foretune did not write.
            StorageError: the disk is full or the folder cannot be written.
        """
        folder = Path(folder)
        if (folder / EXPERIMENT.file).exists():
            raise UsageError(f"{folder} holds an experiment with results of its own. Choose an empty or new folder.")
        if folder.is_dir():
            refuse_changed(folder / FORECAST, is_written_json)
        refuse_foreign(folder)
        check_report_place(folder)
        check_folder(folder)
        write_page_json(folder / FORECAST, self.page, foretune.__version__)
        keep_report(folder, self.page)
        handed_over(folder, self._next_run)


@told("forecast")
def forecast(
    model: Any,
    data: Any,
    *,
    tokenizer: Any = None,
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
    layers: str | int | Sequence[int] | None = None,
    biases_only: bool = False,
    lora_only: bool = False,
    blocks: str | Sequence[str] | None = None,
    exclude_embeddings: bool = False,
    exclude_head: bool = False,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 16,
    schedule: Literal["constant", "linear", "cosine"] = "constant",
    rank: int | str | Sequence[int] = "1,4,16,64",
    warm_up: int = 0,
    memory: str = "auto",
    features: Literal["auto", "exact", "sketched"] = "auto",
    out: str | Path | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    address: str | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    progress: bool = False,
) -> Forecast:
    """Forecast what fine-tuning a model on data would reach, which parts to train, and at which learning rate.

    The numbers are those of `foretune forecast` with the same options. Nothing is printed; what must be known is warned of.

    Args:
        model: a built-in model, a hub id, a model folder, a .gguf file, a transformers or peft model in memory with its
            `tokenizer`, or a `LanguageModel`.
        data: a built-in task, a file, a folder, a hub dataset id; or rows in memory: a pandas DataFrame, a
            `datasets.Dataset` or `DatasetDict`, a list of dicts, a dict of columns.
        tokenizer: of a model in memory.
        progress: show on standard error how far the work is.

    Raises:
        UsageError: an option that cannot be meant as it stands.
        DataError: rows that cannot be used.
        ModelError: a model that cannot be loaded, or that does not fit the data.
        NonFiniteError: an infinite or undefined number in the model.
        StorageError: the folder `out` cannot be written.
    """
    given = dict(locals())
    with calm(model):
        groups = asked_groups("forecast", given)
        by = groups.pop("workers")
        made = made_forecast(ForecastRecipe(**groups), by)
    return Forecast(made.page, groups["run"].out, _next_run=made.next_run)
