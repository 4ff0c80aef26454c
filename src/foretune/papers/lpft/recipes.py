"""The tables and figures of Tomihari and Sato 2024 on linear probing then fine-tuning, as recipes."""

from __future__ import annotations

from foretune.papers.lpft.calibration import Calibrations
from foretune.papers.lpft.features import Features
from foretune.papers.lpft.norms import Norms
from foretune.papers.lpft.spectra import SingularValuesOfKernels
from foretune.papers.recipe import Recipe

LPFT_RECIPES: tuple[Recipe, ...] = (Features(), Calibrations(), Norms(), SingularValuesOfKernels())
