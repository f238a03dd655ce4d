"""HTTP servers on the network: for Prometheus, and for browsers."""
