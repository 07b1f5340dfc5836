"""What a ticket keeps before any fine-tuning: losses of pre-training objectives, zero-shot similarity, perplexity."""
