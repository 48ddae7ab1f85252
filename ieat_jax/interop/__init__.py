"""Public weights in, exports out: readers, name tables and writers. Nothing here needs torch or transformers."""
