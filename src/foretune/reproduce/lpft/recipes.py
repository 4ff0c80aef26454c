"""The tables and figures of Tomihari and Sato 2024 on linear probing then fine-tuning, as recipes."""

from __future__ import annotations

from foretune.reproduce.lpft.calibration import Calibrations
from foretune.reproduce.lpft.features import Features
from foretune.reproduce.lpft.norms import Norms
from foretune.reproduce.lpft.spectra import SingularValuesOfKernels
from foretune.reproduce.recipe import Recipe

LPFT_RECIPES: tuple[Recipe, ...] = (Features(), Calibrations(), Norms(), SingularValuesOfKernels())
