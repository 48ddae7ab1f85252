"""How clips sound, as their signals show: pitch, loudness, speed and pauses in words."""
