"""Listen, Think, Write and Speak: the unified spoken language model."""
