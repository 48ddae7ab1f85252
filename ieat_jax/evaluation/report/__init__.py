"""The report to read and to listen to."""
