"""Objectives as sums and counts, so that micro-batches of any size average correctly."""
