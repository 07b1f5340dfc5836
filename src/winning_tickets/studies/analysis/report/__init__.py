"""The table and the figure of each analysis, and the folder with both."""
