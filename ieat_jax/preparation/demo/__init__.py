"""The demo corpus that a program writes and speaks."""
