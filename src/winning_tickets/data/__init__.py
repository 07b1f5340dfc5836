"""Tasks, corpora, batches and metrics."""
