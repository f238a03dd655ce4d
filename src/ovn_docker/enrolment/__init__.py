"""Hosts that join: tokens, and the service beside the databases that signs certificates for them."""
