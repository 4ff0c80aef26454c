"""Progress on standard error: one bar with the time left on a terminal, lines with the time of day elsewhere.

Where standard error is a file or a pipe, each stage begins with a line, and a stage that lasts says once a minute how far
it is. The lines begin with "Note:", as all that is printed there does, other than errors.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from foretune.progress import Progress as Report

_EVERY = 60.0
"""Seconds between two lines of one stage."""
_STEADY = 3600.0
"""Seconds over which the speed is averaged: the time left follows the work so far, not the last item."""


@contextmanager
def progress_bar(console: Console) -> Iterator[Report]:
    """A function to report progress to: what is done, how much of it, and how much there is."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True, speed_estimate_period=_STEADY) as bar:
            yield _Bar(bar)
    else:
        yield _Lines(console)


@contextmanager
def busy(console: Console, what: str) -> Iterator[None]:
    """A sign of life and the time so far, for work whose length nobody knows."""
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            bar.add_task(what, total=None)
            yield
        return
    ended = threading.Event()
    _line(console, what)
    start = time.monotonic()

    def remind() -> None:
        while not ended.wait(_EVERY):
            _line(console, f"{what}: still at it after {_duration(time.monotonic() - start)}")

    threading.Thread(target=remind, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


class _UnderWay:
    """What was begun and is not finished: the rounds of a loop, and the steps of the round that runs."""

    def __init__(self) -> None:
        self.open: dict[str, tuple[int, int]] = {}

    def around(self, what: str, done: int, total: int) -> str:
        """The other works under way, as words before the name of this one."""
        others = [f"{name} {at}/{of}" for name, (at, of) in self.open.items() if name != what]
        self.open[what] = (done, total)
        if done >= total:
            del self.open[what]
        return ", ".join([*others, what])


class _Bar:
    """One bar at a time: that of the work which was reported last."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.under_way = bar, _UnderWay()
        self.tasks: dict[str, object] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        title = self.under_way.around(what, done, total)
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(title, total=total)
        for name, task in self.tasks.items():
            current = self.bar.tasks[self.bar.task_ids.index(task)]  # type: ignore[arg-type]
            if name != what:
                self.bar.update(current.id, visible=False)
            elif done < current.completed:  # the next round of a loop
                self.bar.reset(current.id, total=total, completed=done, description=title, visible=True)
            else:
                self.bar.update(current.id, completed=done, total=total, description=title, visible=True)


class _Lines:
    """A line for each kind of work when it begins, and one a minute."""

    def __init__(self, console: Console) -> None:
        self.console, self.under_way = console, _UnderWay()
        self.begun: dict[str, tuple[float, int]] = {}
        self.last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now, title = time.monotonic(), self.under_way.around(what, done, total)
        start, first = self.begun.get(what, (now, done))
        if what not in self.begun or done < first:
            start, first = now, done
        new = what not in self.begun
        self.begun[what] = (start, first)
        if new:
            _line(self.console, what)
        elif now - self.last >= _EVERY:
            left = f", about {_duration((now - start) * (total - done) / (done - first))} left" if done > first else ""
            _line(self.console, f"{title} {done} of {total}{left}")
        else:
            return
        self.last = now


def _line(console: Console, text: str) -> None:
    console.print(f"Note: {time.strftime('%H:%M:%S')} {text}", soft_wrap=True, highlight=False)


def _duration(seconds: float) -> str:
    """`2 h 5 min`, `3 min` or `20 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
