"""Training with Lightning: data, optimiser, freezing, choice of the best epoch, resuming."""
