"""Reading results: tables, figures, statistics and HTML pages; nothing here imports torch."""
