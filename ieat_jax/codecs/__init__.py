"""The implementations of the unit codec protocol."""
