"""Tokenizers behind one small interface, and the chat format."""
