"""Fine-tuning simulated in function space: training curves, stable and best learning rates, without a training run."""

from foretune.analysis.dynamics.closed_form import closed_form_curves
from foretune.analysis.dynamics.curves import Curves
from foretune.analysis.dynamics.descent import Descent, GradientDescent, SignDescent, drawn_batches
from foretune.analysis.dynamics.learning_rates import (
    BestRun,
    StabilityEdge,
    best_run,
    stability_edge,
    typical_learning_rate,
)
from foretune.analysis.dynamics.simulation import curves
from foretune.analysis.dynamics.space import FunctionSpace
from foretune.analysis.losses import HalfSquaredLoss, LogLoss, OutputLoss

__all__ = [
    "BestRun",
    "Curves",
    "Descent",
    "FunctionSpace",
    "GradientDescent",
    "HalfSquaredLoss",
    "LogLoss",
    "OutputLoss",
    "SignDescent",
    "StabilityEdge",
    "best_run",
    "closed_form_curves",
    "curves",
    "drawn_batches",
    "stability_edge",
    "typical_learning_rate",
]
