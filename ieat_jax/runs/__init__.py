"""A run on disk: folder, checkpoints, arrays."""
