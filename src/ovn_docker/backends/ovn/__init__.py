"""Overlay mode: rows of the OVN northbound database."""
