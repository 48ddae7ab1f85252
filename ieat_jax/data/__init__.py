"""Dialogues: the record schema, importers, IEAT injection, layout of a dialogue into arrays, input pipelines."""
