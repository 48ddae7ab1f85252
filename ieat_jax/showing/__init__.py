"""`prepare show`: a batch as a person reads it."""
