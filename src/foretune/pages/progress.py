"""Progress on standard error: one bar with the time left on a terminal, lines with the time of day elsewhere.

Where standard error is a file or a pipe, each stage begins with a line, and a stage that lasts says once a minute how far
it is. Verbose, that is every ten seconds, and each stage ends with a line, on a terminal too. The lines begin with
"Note:", as all that is printed there does, other than errors.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
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

from foretune.pages.console import PlainConsole
from foretune.progress import Progress as Report

_EVERY, _OFTEN = 60.0, 10.0
"""Seconds between two lines of one stage, and of a verbose one."""
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
            yield _Bar(bar, console)
        return
    lines = _Lines(console)
    with _reminded(_interval(console), lines.remind):
        yield lines


@contextmanager
def busy(console: Console, what: str) -> Iterator[None]:
    """A sign of life and the time so far, for work whose length nobody knows."""
    start = time.monotonic()
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            bar.add_task(what, total=None)
            yield
        _tell_end(console, what, start)
        return
    tell(console, what)
    every = _interval(console)
    with _reminded(every, lambda: tell(console, f"{what}: still at it after {_duration(time.monotonic() - start)}")):
        yield
        _tell_end(console, what, start)


@contextmanager
def _reminded(every: float, remind: Callable[[], None]) -> Iterator[None]:
    """Call a function every so many seconds, from a thread, as long as the block lasts."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            remind()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def tell(console: Console, text: str) -> None:
    """A line with the time of day."""
    console.print(f"Note: {time.strftime('%H:%M:%S')} {text}", soft_wrap=True, highlight=False)


def _verbose(console: Console) -> bool:
    return isinstance(console, PlainConsole) and console.verbose


def _interval(console: Console) -> float:
    return _OFTEN if _verbose(console) else _EVERY


def _tell_end(console: Console, what: str, start: float) -> None:
    if _verbose(console):
        tell(console, f"{what}: done in {_duration(time.monotonic() - start)}")


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

    def __init__(self, bar: Progress, console: Console) -> None:
        self.bar, self.console, self.under_way = bar, console, _UnderWay()
        self.tasks: dict[str, object] = {}
        self.begun: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        title = self.under_way.around(what, done, total)
        start = self.begun.setdefault(what, time.monotonic())
        if done >= total:
            _tell_end(self.console, title, self.begun.pop(what, start))
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
    """A line for each kind of work when it begins, and one a minute, also where nothing was done in that minute."""

    def __init__(self, console: Console) -> None:
        self.console, self.under_way = console, _UnderWay()
        self.begun: dict[str, tuple[float, int]] = {}
        self.last = time.monotonic()
        self.now = ""

    def remind(self) -> None:
        """Say where the work is, unless a line was printed of late."""
        if self.now and time.monotonic() - self.last >= _interval(self.console):
            self.last = time.monotonic()
            tell(self.console, f"{self.now}, still at it")

    def __call__(self, what: str, done: int, total: int) -> None:
        now, title = time.monotonic(), self.under_way.around(what, done, total)
        start, first = self.begun.get(what, (now, done))
        if what not in self.begun or done < first:
            start, first = now, done
        new = what not in self.begun
        self.begun[what] = (start, first)
        self.now = f"{title} {done} of {total}" if done < total else ""
        if done >= total:
            _tell_end(self.console, title, start)
        if new:
            tell(self.console, what)
        elif now - self.last >= _interval(self.console):
            left = f", about {_duration((now - start) * (total - done) / (done - first))} left" if done > first else ""
            tell(self.console, f"{title} {done} of {total}{left}")
        else:
            return
        self.last = now


def _duration(seconds: float) -> str:
    """`2 h 5 min`, `3 min` or `20 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
