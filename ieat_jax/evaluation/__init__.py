"""Measures of a trained run on held-out dialogues, and the report that shows them."""
