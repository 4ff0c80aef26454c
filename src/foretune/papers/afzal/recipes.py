"""Tables and figures of Rahimi Afzal et al., as recipes."""

from __future__ import annotations

from foretune.papers.afzal.cost import CostOfKernels
from foretune.papers.afzal.layers import LayerChoice
from foretune.papers.afzal.lipschitz import Lipschitz
from foretune.papers.afzal.spectrum import SpectrumAgainstTraining
from foretune.papers.recipe import Recipe

AFZAL_RECIPES: tuple[Recipe, ...] = (CostOfKernels(), SpectrumAgainstTraining(), LayerChoice(), Lipschitz())
