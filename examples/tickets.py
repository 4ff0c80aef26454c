"""A table of made-up support tickets, for the tutorials: `python examples/tickets.py tickets.csv`."""

from __future__ import annotations

import argparse
import csv
import itertools
import random
from pathlib import Path

OPENINGS = ("Hello,", "Hi there,", "Good morning.", "Sorry to bother you:", "Second message about this:")
PROBLEMS = {
    "billing": (
        "I was charged twice for {} this month",
        "the invoice for {} shows the wrong amount",
        "my refund for {} has not arrived",
        "why did the price of {} go up",
    ),
    "delivery": (
        "the parcel with {} is late by a week",
        "{} arrived at my neighbour instead of me",
        "the tracking page for {} shows nothing new",
        "the box with {} came open and wet",
    ),
    "login": (
        "I cannot sign in to order {}",
        "the password reset for {} sends no mail",
        "my account was locked after I bought {}",
        "the code on my phone for {} does not work",
    ),
}
THINGS = ("the blue lamp", "two chairs", "the yearly plan", "a garden hose")
"""5 openings x 4 sentences x 4 things = 80 tickets per label."""


def tickets() -> list[tuple[str, str]]:
    """All texts with their labels, in an order that never changes."""
    rows = [
        (f"{opening} {problem.format(thing)}.", label)
        for label, problems in PROBLEMS.items()
        for opening, problem, thing in itertools.product(OPENINGS, problems, THINGS)
    ]
    random.Random(0).shuffle(rows)  # noqa: S311 - an order, not a secret
    return rows


def mistaken(rows: list[tuple[str, str]], count: int) -> tuple[list[tuple[str, str]], list[int]]:
    """The rows with another label in some of them, and which, from 0."""
    draw = random.Random(1)  # noqa: S311 - a choice, not a secret
    changed = sorted(draw.sample(range(len(rows)), count))
    others = {label: [other for other in PROBLEMS if other != label] for label in PROBLEMS}
    found = [
        (text, draw.choice(others[label]) if place in changed else label) for place, (text, label) in enumerate(rows)
    ]
    return found, changed


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--columns", default="message,category", help="names of the two columns")
    parser.add_argument("--wrong", type=int, default=0, metavar="N", help="give N rows another label, and say which")
    given = parser.parse_args()
    rows, changed = mistaken(tickets(), given.wrong)
    with given.file.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([given.columns.split(","), *rows])
    if changed:
        print("Wrong labels in rows", *changed)


if __name__ == "__main__":
    main()
