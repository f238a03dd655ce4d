"""Rows that should not exist or are missing: leftovers, lost hosts, restored and emptied databases."""
