"""Recipes: one study per table and figure of the papers."""
