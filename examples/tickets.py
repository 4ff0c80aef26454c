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


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--columns", default="message,category", help="names of the two columns")
    given = parser.parse_args()
    with given.file.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([given.columns.split(","), *tickets()])


if __name__ == "__main__":
    main()
