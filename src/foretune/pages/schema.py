"""The JSON schema of every kind of result, made from the dataclasses that are written.

Each field's meaning and unit has one home, the `Attributes:` of its dataclass; from there it goes into a pydantic model,
and from that into the schema. `python -m foretune.pages.schema` writes the files of `schemas/`, which are shipped.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import operator
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model

from foretune.experiment.page import KernelData, SolveData
from foretune.experiment.plan import StudyPlan
from foretune.finetune.page import TrainingCostData
from foretune.finetune.report import RunReport
from foretune.forecasting.page import ForecastData
from foretune.forecasting.plan import KernelCostData
from foretune.handover.track import TrackRecord
from foretune.labelling.explain import ExplainData
from foretune.labelling.page import LabelsData
from foretune.page import Page
from foretune.pages.json import FORMAT, OF_PAGE
from foretune.papers.data import ReproductionData
from foretune.regime.page import BehaviourData
from foretune.text.page import TasksData
from foretune.text.task import Task
from foretune.validation.data import ValidationData

KINDS: Mapping[str, type] = {
    "forecast": ForecastData,
    "plan": KernelCostData,
    "kernel": KernelData,
    "solve": SolveData,
    "tune": RunReport,
    "tune-plan": TrainingCostData,
    "labels": LabelsData,
    "explain": ExplainData,
    "behaviour": BehaviourData,
    "validate": ValidationData,
    "reproduce": ReproductionData,
    "study-plan": StudyPlan,
    "track": TrackRecord,
    "tasks": TasksData,
    "task": Task,
}
"""Kind of a page -> what stands beside it in JSON."""
FOLDER = Path(__file__).parent / "schemas"

_PLAIN = (str, int, bool, type(None))
_FIELD = re.compile(r"^(\w+(?:, \w+)*): (.*)$")
_FORBID = ConfigDict(extra="forbid")


class JsonNumber(RootModel[float | Literal["inf", "-inf"] | None]):
    """A number. Null is what is not one, and the infinities are strings: JSON has neither."""


def document_model(kind: str) -> type[BaseModel]:
    """The model of what `--json` writes of a kind.

    Args:
        kind: one of `KINDS`.
    """
    return create_model(
        f"{kind.title().replace('-', '')}Document",
        __base__=_model(KINDS[kind]),
        format=(Literal[FORMAT], Field(description="Number of this layout.")),  # type: ignore[valid-type]
        foretune=(str, Field(description="Version that wrote it.")),
        kind=(Literal[kind], Field(description="What made it.")),  # type: ignore[valid-type]
        command=(str, Field(description="The command that makes it again; empty where that is not told.")),
        page=(_model(Page, OF_PAGE), Field(description="What is shown: answer, facts, tables and figures.")),
    )


def schema_text(kind: str) -> str:
    """The JSON schema of a kind, as the text of its file."""
    return json.dumps(document_model(kind).model_json_schema(), separators=(",", ":")) + "\n"


def write_schemas(folder: Path = FOLDER) -> None:
    """Write a file for each kind."""
    folder.mkdir(exist_ok=True)
    for kind in KINDS:
        (folder / f"{kind}.json").write_text(schema_text(kind), encoding="utf-8")


@functools.cache
def _model(kind: type, without: tuple[str, ...] = ()) -> type[BaseModel]:
    """A pydantic model with the fields of a dataclass as JSON holds them."""
    hints, said = get_type_hints(kind), _descriptions(kind)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if field.name in without or get_origin(hint) is Callable or get_origin(hint) is get_origin(Callable[[], None]):
            continue
        described = Field(description=said.get(field.name, "") + _shape(hint))
        fields[field.name] = (_type(hint), described)
    first = (inspect.getdoc(kind) or "").partition("\n")[0]
    return create_model(kind.__name__, __config__=_FORBID, __doc__=first, __module__=kind.__module__, **fields)


def _descriptions(kind: type) -> dict[str, str]:
    """Field -> what the `Attributes:` of a dataclass, or of one that it extends, say of it."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        names: list[str] = []
        _, _, attributes = inspect.cleandoc(each.__doc__ or "").partition("Attributes:\n")
        for line in attributes.splitlines():
            match = _FIELD.match(line.removeprefix("    "))
            if match is not None and line.startswith("    "):
                names = match[1].split(", ")
                found |= dict.fromkeys(names, match[2])
            elif line.startswith("     "):
                found |= {name: f"{found[name]} {line.strip()}" for name in names}
            else:
                break
    return found


def _shape(hint: Any) -> str:
    return f" Shape: {hint.dim_str}." if hasattr(hint, "dim_str") else ""


def _type(hint: Any) -> Any:
    """A type of Python as what JSON holds of it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type(inner[0])
    if hasattr(hint, "dim_str"):
        return _nested(hint)
    if hint is float or (isinstance(hint, type) and issubclass(hint, np.floating)):
        return JsonNumber
    if hint in _PLAIN or origin is Literal:
        return hint
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, map(_type, inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[str, _type(inner[1])]
    if origin is tuple and inner[-1] is not Ellipsis:
        return tuple[tuple(map(_type, inner))]  # type: ignore[misc]
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return list[_type(inner[0])]  # type: ignore[misc]
    if dataclasses.is_dataclass(hint):
        return _model(hint)  # type: ignore[arg-type]
    return str if isinstance(hint, type) and issubclass(hint, Path) else Any


def _nested(hint: Any) -> Any:
    """An array as lists in lists."""
    made: Any = int if all("int" in str(dtype) for dtype in hint.dtypes) else JsonNumber
    for _ in hint.dim_str.split():
        made = list[made]
    return Any if "..." in hint.dim_str else made


if __name__ == "__main__":
    write_schemas()
