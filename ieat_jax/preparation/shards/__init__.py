"""Shards: dialogues with their sound in few files, made on one machine or on many."""
