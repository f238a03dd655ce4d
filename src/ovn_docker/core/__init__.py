"""Decisions: the meaning of each call of Docker, and the comparison of what is with what should be."""
