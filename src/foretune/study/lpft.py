"""The tables and figures of Tomihari and Sato 2024 on linear probing then fine-tuning, as recipes."""

from __future__ import annotations

from foretune.study.lpft_calibration import Calibrations
from foretune.study.lpft_features import Features
from foretune.study.lpft_norms import Norms
from foretune.study.lpft_spectra import SingularValuesOfKernels
from foretune.study.recipe import Recipe

LPFT_RECIPES: tuple[Recipe, ...] = (Features(), Calibrations(), Norms(), SingularValuesOfKernels())
