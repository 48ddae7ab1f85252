"""Training: optimiser, checkpoints, metrics, run folders, and the loop that both stages share."""
