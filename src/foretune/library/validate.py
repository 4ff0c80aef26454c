"""`validate` as a function: how well the forecast ranks real results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from foretune.cli.validate import made_validation
from foretune.library.calm import calm
from foretune.library.given import LOADING, groups_of, model_given, told
from foretune.library.result import Result, flat, frame

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class ForecastValidation(Result):
    """How well each score ranks real results: what `ft.validate` gives back, and what its folder holds.

    Attributes:
        page: the tables, figures and findings as data.
        folder: folder of the page.
    """

    kind: ClassVar[str] = "validate"

    def to_frame(self) -> pandas.DataFrame:
        """The rankings, one per row: measure, score, and how well that score ranks the results."""
        rankings = self.record["rankings"].items()
        return frame([{"measure": measure, **flat(each)} for measure, ranked in rankings for each in ranked])


@told("validate")
def validate(
    model: Any,
    *,
    tokenizer: Any = None,
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    revision: str | None = None,
    kind: Literal["causal", "masked", "encoder"] | None = None,
    trust_remote_code: bool = False,
    tasks: str | Sequence[str] = "mr,subj,trec",
    data: str | Path | None = None,
    n: int | None = None,
    k: int | None = None,
    full_data: bool = False,
    seeds: str | int | Sequence[int] = "13,21",
    test: int = 400,
    output: Literal["head", "prompt"] = "head",
    method: Literal["lora", "ft"] = "lora",
    rank: int = 8,
    candidates: str | Sequence[str] | None = None,
    learning_rates: str | float | Sequence[float] = "5e-4,2e-3",
    batch_size: int = 16,
    epochs: float = 6,
    evaluate_every: int = 8,
    warm_up: str | int | Sequence[int] | None = None,
    prodigy: bool = False,
    prior: str | Path | Sequence[str | Path] | None = None,
    features: Literal["auto", "exact", "sketched"] = "auto",
    memory: str = "2GiB",
    out: str | Path = "runs/validate",
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    address: str | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    progress: bool = False,
) -> ForecastValidation:
    """Fine-tune a model for many candidates, tasks and seeds, and measure how well the forecast ranks the results.

    A stopped call goes on where it stopped when it is repeated.

    Args:
        model: see `ft.forecast`.
        tokenizer: of a model in memory.
        progress: show on standard error how far the work is.

    Raises:
        UsageError: an option that cannot be meant as it stands, or too few candidates.
        DataError: rows that cannot be used.
        ModelError: a model that cannot be loaded.
        StorageError: the folder cannot be written.
    """
    given = dict(locals())
    del given["tokenizer"], given["progress"]
    with calm(model):
        given["model"] = model_given(model, tokenizer, {name: given[name] for name in LOADING})
        made = made_validation(**groups_of("validate", given, progress=progress))
    return ForecastValidation(made.page, made.folder, _command=made.command)
