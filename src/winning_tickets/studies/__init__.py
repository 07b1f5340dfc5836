"""Studies: grids of runs that are planned, run by an engine, stored and reported; never imports torch."""
