"""What a training step costs on hardware that is not here: memory, FLOPs and traffic, read off the compiled program."""
