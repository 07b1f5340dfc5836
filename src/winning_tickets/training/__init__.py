"""The training loop, the objectives and optimizers that it minimizes with, and saved fine-tuned models."""
