"""Recipes and their plans, made once for all tests of a process."""

import functools

from winning_tickets.studies.load import load_study, recipe_names
from winning_tickets.studies.plan import plan_study

recipe = functools.cache(load_study)
planned = functools.cache(lambda name, scale: plan_study(recipe(name), scale))
RECIPES = [name for name in recipe_names() if name != "demo"]
"""The recipes of the papers."""
