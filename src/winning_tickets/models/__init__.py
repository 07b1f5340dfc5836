"""Pre-trained models: the table of architectures, loading, heads and neurons, weights, compact layers."""
