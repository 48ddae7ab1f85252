"""HTML pages that one opens without a network: their frame, and sound in them."""
