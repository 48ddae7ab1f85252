"""From records to batches: which turns share a row, planned from sizes alone, and the rows that are made of it."""
