"""Backends: where networks and endpoints are kept, one folder each."""
