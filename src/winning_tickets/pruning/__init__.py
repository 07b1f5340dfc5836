"""The methods that find tickets: one-shot, iterative, movement, mask training, structured."""
