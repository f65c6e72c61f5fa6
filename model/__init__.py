"""The model and its training, in PyTorch. Knows nothing of serving."""
