"""Studies: a grid of runs as data, planned as a graph, run by an engine, stored so that nothing is done twice.

No module here imports torch; the verbs are imported by the workers that run them.
"""
