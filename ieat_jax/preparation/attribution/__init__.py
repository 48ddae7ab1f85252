"""`prepare attribute`: what nobody annotated, asked of an LLM and checked."""
