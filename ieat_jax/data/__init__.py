"""Dialogues: the record schema, IEAT injection, layout of a dialogue into arrays."""
