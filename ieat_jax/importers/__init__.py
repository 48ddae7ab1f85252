"""Corpora of others as records."""
