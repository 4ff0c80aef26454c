"""A work item: inputs -> one file, written whole. What is there already is not made again.

Items know where their results go and hand back no values: the process that started them reads the files. A worker
keeps what all items need (a model, above all), which it opens once. An item that another command makes at the moment comes
back later.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from foretune.errors import ForetuneError
from foretune.store.lock import InUseError

T = TypeVar("T")


class Item(Protocol):
    """A piece of work that can be sent to another process."""

    def carry_out(self, bench: Bench) -> Path:
        """Make the file, unless it is there; the file.

        Args:
            bench: what the worker keeps.

        Raises:
            InUseError: another command makes it.
            ForetuneError: what makes the work fail wherever it is done.
        """
        ...


@dataclass
class Bench:
    """What a worker keeps from item to item.

    Attributes:
        tool: what every item works with, opened once.
    """

    tool: Any
    _made: dict[str, dict[Hashable, Any]] = field(default_factory=dict, repr=False)

    def kept(self, kind: str, key: Hashable, make: Callable[[], T], most: int = 2) -> T:
        """A value that several items need: the last few of a kind are kept.

        Args:
            kind: what it is.
            key: what determines it.
            make: makes it.
            most: values of this kind that are kept.
        """
        of_kind = self._made.setdefault(kind, {})
        if key in of_kind:
            of_kind[key] = of_kind.pop(key)  # the last one asked for is at the end
            return of_kind[key]
        while len(of_kind) >= most:
            del of_kind[next(iter(of_kind))]
        of_kind[key] = made = make()
        return made


@dataclass(frozen=True)
class Note:
    """A warning that arose in a worker.

    Attributes:
        text: of it.
        category: its class.
        file, line: where it arose.
    """

    text: str
    category: type[Warning]
    file: str
    line: int


@dataclass(frozen=True)
class Done:
    """What came of an item.

    Attributes:
        file: that was written; None where it is not there.
        waits: another command makes it.
        failure: why it failed.
        notes: warnings on the way.
    """

    file: Path | None = None
    waits: bool = False
    failure: Exception | None = None
    notes: tuple[Note, ...] = ()


def carried_out(item: Item, bench: Callable[[], Bench]) -> Done:
    """What comes of an item here.

    Args:
        item: what is to be made.
        bench: what this worker keeps.
    """
    file, waits, failure = None, False, None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        try:
            file = item.carry_out(bench())
        except InUseError:
            waits = True
        except Exception as error:
            failure = _sendable(error)
    notes = tuple(Note(str(each.message), each.category, each.filename, each.lineno) for each in said)
    return Done(file, waits, failure, notes)


def _sendable(error: Exception) -> Exception:
    """An error as another process can read it."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:
        return (ForetuneError if isinstance(error, ForetuneError) else RuntimeError)(str(error))
    return error
