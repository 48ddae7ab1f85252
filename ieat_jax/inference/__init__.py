"""Generation: a dialogue in; thinking, reply text and reply speech out."""
