"""Faults: kills, full disks, lost caches, clocks, crowds and numbers that are none; see docs/explanation/faults.md."""
