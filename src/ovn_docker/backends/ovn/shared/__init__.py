"""Shared networks: joining, leaving, names of containers, and what hosts say of themselves to each other."""
