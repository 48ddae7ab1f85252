"""What is optimised: the objectives of the stages and the losses that they share."""
