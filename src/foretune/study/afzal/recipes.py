"""Tables and figures of Rahimi Afzal et al., as recipes."""

from __future__ import annotations

from foretune.study.afzal.cost import Cost
from foretune.study.afzal.layers import LayerChoice
from foretune.study.afzal.lipschitz import Lipschitz
from foretune.study.afzal.spectrum import SpectrumAgainstTraining
from foretune.study.recipe import Recipe

AFZAL_RECIPES: tuple[Recipe, ...] = (Cost(), SpectrumAgainstTraining(), LayerChoice(), Lipschitz())
