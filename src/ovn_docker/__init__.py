"""Multi-host networking for plain Docker, on OVN."""

__version__ = "0.1.0"
