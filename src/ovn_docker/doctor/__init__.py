"""Checks of a host and the cluster, and the diagnosis that their findings make."""
