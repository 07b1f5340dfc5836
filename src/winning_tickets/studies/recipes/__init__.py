"""Recipes: one study for each table and figure of the papers; data, no logic."""
