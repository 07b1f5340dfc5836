"""Studies: grids of runs as data, planned as a graph, run by an engine, stored, reported; never imports torch."""
