"""The settings of each paper, by hand from its text, one file for each paper; `studies.contract` reads them."""
