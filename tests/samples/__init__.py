"""Samples that several tests share: tiny models and tasks, folders of results, launched processes."""
