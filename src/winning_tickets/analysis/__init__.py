"""Evaluation without fine-tuning, statistics, and analyses of tickets and results."""
