"""Whether every label has enough examples for a forecast."""

from __future__ import annotations

import numpy as np

from foretune.errors import DataError
from foretune.experiment.inputs import Inputs
from foretune.forecasting.advice import MINIMUM_PER_LABEL


def label_warnings(inputs: Inputs) -> tuple[str, ...]:
    """What the reader must know of rare labels.

    Raises:
        DataError: one label only, a label without training example, or no validation or test examples.
    """
    n, v = inputs.n_train, inputs.n_validation
    parts = {"training": inputs.y[:n], "validation": inputs.y[n : n + v], "test": inputs.y[n + v :]}
    counts = {name: np.bincount(y, minlength=inputs.n_classes) for name, y in parts.items()}
    for name, of_part in counts.items():
        if not of_part.sum():
            raise DataError(f"There are no {name} examples; a forecast needs some. Add rows, or use a smaller --k.")
    present = np.flatnonzero(counts["training"])
    if len(present) < 2:
        raise DataError(
            f"All {n} training examples have the label number {present[0]}; expected at least two labels to tell apart."
        )
    if len(present) < inputs.n_classes:
        missing = int(np.flatnonzero(counts["training"] == 0)[0])
        raise DataError(
            f"Label number {missing} of {inputs.n_classes} has no training example; expected {MINIMUM_PER_LABEL} or more "
            "of each label. Add rows, or leave the label out (--labels)."
        )
    found = []
    for name in ("validation", "test"):
        lacking = np.flatnonzero(counts[name] == 0)
        if len(lacking):
            shown = ", ".join(map(str, lacking))
            found.append(f"No {name} example has label number {shown}: the forecast says nothing about it there.")
    fewest = int(counts["training"].min())
    if fewest < MINIMUM_PER_LABEL:
        found.append(
            f"Only {fewest} training examples for a label: forecasts from fewer than {MINIMUM_PER_LABEL} vary widely."
        )
    return tuple(found)
