"""LLMs that are asked during preparation: behind an address or here; answers are kept."""
