"""Recipes and their plans, made once for all tests of a process."""

import functools

from samples.miniature import plan_miniature
from winning_tickets.studies.load import load_study, recipe_names
from winning_tickets.studies.plan import plan_study

recipe = functools.cache(load_study)


@functools.cache
def planned(name, scale):
    """The plan of a recipe; at `miniature`, that of the scale of its paper made small."""
    return plan_miniature(recipe(name)) if scale == "miniature" else plan_study(recipe(name), scale)


RECIPES = [name for name in recipe_names() if name != "demo"]
"""The recipes of the papers."""
