"""Training: Lightning module, optimiser, checkpoints, and measuring what came of it."""
