"""Corpora of others as records of ours; nothing is downloaded, nothing is copied."""
