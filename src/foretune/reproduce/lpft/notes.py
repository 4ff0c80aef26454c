"""What the pages on linear probing then fine-tuning say on top, and the poster's own figures."""

from __future__ import annotations

from collections.abc import Sequence

from foretune.page import Table
from foretune.reproduce.printed import printed_figures
from foretune.reproduce.recipe import Recipe, Study

TASKS = ("rte", "cb")


def head_notes(recipe: Recipe, study: Study) -> tuple[str, ...]:
    """Settings, and what differs from the poster."""
    return (
        f"Source: {recipe.source}.",
        *study.notes,
        "The poster trains a language model that it does not name on full data. Here k examples per label are used, and "
        "the whole task where a label has fewer than 2 k.",
        "The classifier starts at random, N(0, 1 / features) (N(0, 0.02^2) by the poster's norms), on mean features (the "
        "last token's of a causal model); two classes have one output, f1 - f0. AdamW at a constant rate without clipping "
        "(the published code has the defaults of transformers: a linear decay, clipping at 1); the best checkpoint and the "
        "best point of a grid by validation.",
        "LP keeps a grid of learning rates of its own (1e-4, 1e-3, 1e-2); LP-FT and LP-LoRA begin with LP at 1e-3, for as "
        "many steps as their second stage.",
    )


def one_seed_note(study: Study) -> tuple[str, ...]:
    """What a page of a single seed says of its comparisons; nothing where there are several."""
    if len(study.seeds) > 1:
        return ()
    return ("One seed: no interval and no noise floor. A comparison below says what this seed showed, not what holds.",)


def poster_table(name: str, tasks: Sequence[str], columns: Sequence[str]) -> list[Table]:
    """The poster's table of these tasks; none where it has none of them."""
    printed = printed_figures("tomihari")[name]
    known = [task for task in tasks if task in printed["tasks"]]
    if not known:
        return []
    rows = tuple(
        (method, *(str(value) for task in known for value in printed["tasks"][task][method]))
        for method in printed["tasks"][known[0]]
    )
    header = ("Method", *(f"{task}: {column}" for task in known for column in columns))
    return [Table(header, rows, "The poster's own figures, of its model on full data")]
