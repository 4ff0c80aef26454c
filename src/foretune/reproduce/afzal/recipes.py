"""Tables and figures of Rahimi Afzal et al., as recipes."""

from __future__ import annotations

from foretune.reproduce.afzal.cost import CostOfKernels
from foretune.reproduce.afzal.layers import LayerChoice
from foretune.reproduce.afzal.lipschitz import Lipschitz
from foretune.reproduce.afzal.spectrum import SpectrumAgainstTraining
from foretune.reproduce.recipe import Recipe

AFZAL_RECIPES: tuple[Recipe, ...] = (CostOfKernels(), SpectrumAgainstTraining(), LayerChoice(), Lipschitz())
