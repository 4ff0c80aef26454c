"""All recipes by name."""

from __future__ import annotations

from collections.abc import Mapping

from foretune.errors import UsageError, nearest
from foretune.papers.afzal.recipes import AFZAL_RECIPES
from foretune.papers.lpft.recipes import LPFT_RECIPES
from foretune.papers.malladi.recipes import MALLADI_RECIPES
from foretune.papers.malladi.subspace import Subspace
from foretune.papers.recipe import Recipe

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe for recipe in (*MALLADI_RECIPES, Subspace(), *LPFT_RECIPES, *AFZAL_RECIPES)
}


def recipe_named(name: str) -> Recipe:
    """A recipe of `RECIPES`.

    Raises:
        UsageError: there is none of that name; the message names the nearest.
    """
    if name not in RECIPES:
        known = "; ".join(f"{recipe.name}: {recipe.title}" for recipe in RECIPES.values())
        raise UsageError(f"There is no table {name!r} to reproduce.{nearest(name, RECIPES)} Known: {known}.")
    return RECIPES[name]
