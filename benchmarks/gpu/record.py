"""What was measured, kept as it comes: progress on the terminal, a JSON file and a Markdown page after every part."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Table:
    """Rows of one section.

    Attributes:
        title: of the section.
        columns: names.
        rows: values, as they are printed.
        notes: sentences below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def markdown(self) -> str:
        """The table as a page shows it."""
        lines = [f"## {self.title}", "", f"| {' | '.join(self.columns)} |", f"|{'---|' * len(self.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, "", *self.notes, ""])


@dataclass
class Record:
    """Everything so far.

    Attributes:
        folder: where the files go.
        seconds: of all sections together at most.
        about: of the machine.
        tables: by section.
        failures: what went wrong, with tracebacks.
        misses: figures that miss their target.
    """

    folder: Path
    seconds: float
    about: dict[str, Any]
    tables: list[Table] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    def say(self, line: str) -> None:
        """One line of progress."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {line}", flush=True)

    def figure(self, **values: Any) -> None:
        """A measurement for the JSON file."""
        self.figures.append(values)
        self.say("  " + ", ".join(f"{name} {_shown(value)}" for name, value in values.items()))

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """A part whose failure does not stop the others; the files are written after it."""
        self.say(what)
        try:
            yield
        except Exception as error:
            self.failures.append({"part": what, "error": repr(error), "traceback": traceback.format_exc()})
            self.say(f"  FAILED: {error!r}\n{traceback.format_exc()}")
        finally:
            self.write()

    def within(self, what: str, needed: float) -> bool:
        """Whether there is time for a part; says so where there is not."""
        if self.left >= needed:
            return True
        self.say(f"{what}: skipped, {max(0.0, self.left):.0f} s are left and about {needed:.0f} s are needed")
        return False

    def write(self) -> None:
        """Both files, whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {name: getattr(self, name) for name in ("about", "figures", "misses", "failures")}
        (self.folder / "gpu.json").write_text(json.dumps(whole, indent=1, default=str), encoding="utf-8")
        (self.folder / "gpu.md").write_text(self.page, encoding="utf-8")

    @property
    def page(self) -> str:
        """The tables, what misses its target and what failed."""
        about = [f"{name}: {value}" for name, value in self.about.items()]
        lines = ["; ".join(about) + ".", "", *(table.markdown for table in self.tables)]
        lines += ["## Misses", "", *([f"* {miss}" for miss in self.misses] or ["None."]), ""]
        if self.failures:
            lines += ["## Failures", ""]
            lines += [f"* {failure['part']}: `{failure['error']}`" for failure in self.failures] + [""]
        return "\n".join(lines)


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
