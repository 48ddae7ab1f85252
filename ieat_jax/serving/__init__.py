"""Talking to a loaded model: in a terminal, and behind OpenAI's protocol with a page for the microphone."""
