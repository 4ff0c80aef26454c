"""What a forecast says of the labels of its own sample: which look wrong, and what more of them would bring."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.experiment.experiment import Experiment
from foretune.labelling.budget import LabelBudget, budget_of
from foretune.labelling.kernel import MOST_SQUARE, RowKernel, feature_kernel
from foretune.labelling.rows import LEAST, Row, RowsToAsk
from foretune.labelling.suspicious import SuspiciousRow, WrongLabels, suspicion_of
from foretune.labelling.tables import (
    budget_figures,
    budget_tables,
    says_little,
    suspicious_table,
    twin_tables,
)
from foretune.labelling.twins import Twins
from foretune.page import Fact, Figure, Span, Table


@dataclass(frozen=True)
class SampleLabels:
    """The labels of the rows that train and validate, each asked of all others by a fit to the model's features.

    Attributes:
        asked: how many rows there are.
        suspicious: those whose likely label is more likely right than the given one, the most suspicious first.
        wrong: how many labels are wrong.
        agreement: share of the rows whose given label is the one that the others make the most likely, 0 to 1.
        majority: share of the most frequent label.
        twins: pairs of rows with nearly one text and two labels.
        budget: accuracy of that fit by the number of labels; null for more rows than a square kernel suits.
    """

    asked: int
    suspicious: tuple[SuspiciousRow, ...]
    wrong: WrongLabels
    agreement: float
    majority: float
    twins: tuple[Twins, ...]
    budget: LabelBudget | None


def sample_labels(experiment: Experiment) -> SampleLabels | None:
    """What the pretrained features say of the labels of a sample; None where a label has too few rows to be asked.

    Args:
        experiment: with its inputs; nothing is computed by the model again.
    """
    rows = _sampled(experiment)
    if rows.fewest[1] < LEAST:
        return None
    features = experiment.inputs.features[: len(rows.rows)]
    kernel = RowKernel(feature_kernel(features), "features", features, ())
    found = suspicion_of(rows, kernel)
    budget = budget_of(rows, kernel, experiment.setting.seed) if len(rows.rows) <= MOST_SQUARE else None
    return SampleLabels(
        len(rows.rows), found.suspicious, found.wrong, found.agreement, found.majority, found.twins, budget
    )


def _sampled(experiment: Experiment) -> RowsToAsk:
    """The rows that train and validate, in the order of the inputs."""
    examples = (*experiment.split.train, *experiment.split.validation)
    rows = tuple(Row(*experiment.origins[each], each.text, each.text2, each.label) for each in examples)
    return RowsToAsk(rows, experiment.task)


def labels_facts(found: SampleLabels) -> tuple[Fact, ...]:
    """How many labels look wrong, and the accuracy that twice as many would bring, in one line."""
    return (Fact("Your labels", f"{_suspicious(found)}{_doubled(found.budget)}", 1),)


def labels_tables(found: SampleLabels) -> tuple[Table, ...]:
    """The suspicious rows, contradictions, and the learning curve."""
    suspicious = (suspicious_table(found.suspicious, details=True),) if found.suspicious else ()
    return (*suspicious, *twin_tables(found.twins, details=True), *budget_tables(found.budget))


def labels_figures(found: SampleLabels) -> tuple[Figure, ...]:
    """The learning curve."""
    return budget_figures(found.budget)


def _suspicious(found: SampleLabels) -> str:
    if says_little(found.agreement, found.majority) or (found.suspicious and not found.wrong.can_tell):
        return "cannot tell which are wrong"
    if not found.suspicious:
        return f"none of {found.asked:,} looks wrong"
    return f"about {found.wrong.count:,} of {found.asked:,} wrong"


def _doubled(budget: LabelBudget | None) -> str:
    """What twice as many labels would bring."""
    if budget is None:
        return ""
    if not budget.tells:
        return "; twice as many: cannot tell"
    point = next(point for point in budget.points if point.times == 2)
    return f"; twice as many: {point.accuracy:.2f} ({Span(point.low, point.high)})"
