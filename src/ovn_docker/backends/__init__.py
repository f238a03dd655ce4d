"""Where networks and endpoints live: one module per backend."""
