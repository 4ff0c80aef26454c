"""`behaviour` as a function: whether a run behaved as its kernel predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from foretune.cli.behaviour import made_behaviour
from foretune.library.calm import calm
from foretune.library.given import groups_of, told
from foretune.library.result import Result, frame
from foretune.library.tune import TunedRun

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class RunBehaviour(Result):
    """The measures of kernel behaviour on a run: what `ft.behaviour` gives back.

    Attributes:
        page: the verdict, its tables, figures and notes as data.
        folder: folder of the run.
    """

    kind: ClassVar[str] = "behaviour"

    @property
    def verdict(self) -> Mapping[str, Any]:
        """The verdict, with every number and threshold that it rests on."""
        return self.record["verdict"]

    def to_frame(self) -> pandas.DataFrame:
        """The trained parameters, one per row: the norm of the change of each, and its share of the kernel (of 1)."""
        moved, shares = self.record["parameters"]["by_parameter"], self.record["shares"]
        return frame([{"parameter": name, "moved": value, "share": shares.get(name)} for name, value in moved.items()])


@told("behaviour")
def behaviour(
    folder: TunedRun | str | Path,
    *,
    test_examples: int = 64,
    train_examples: int | None = None,
    formula: Literal["sgd", "signgd", "asymmetric"] = "sgd",
    segment_examples: int = 4,
    segment_points: int = 4,
    memory: str = "2GiB",
    out: str | Path | None = None,
    progress: bool = False,
) -> RunBehaviour:
    """Measure whether a run of `ft.tune` or `foretune tune` behaved as its kernel predicts.

    Args:
        folder: the run, or its folder.
        progress: show on standard error how far the work is.

    Raises:
        UsageError: the folder holds no finished run, or an option cannot be meant as it stands.
        ModelError: the model it started from cannot be loaded.
    """
    given = dict(locals())
    del given["progress"]
    recipe = None
    if isinstance(folder, TunedRun):
        given["folder"], recipe = folder.place, folder.recipe
    with calm(None):
        page = made_behaviour(**groups_of("behaviour", given, progress=progress), recipe=recipe)
    return RunBehaviour(page, Path(given["folder"]))
