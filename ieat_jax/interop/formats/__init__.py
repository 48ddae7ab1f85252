"""What a checkpoint can be written as: one file per format, each with an entry for the table of `interop.export`."""
