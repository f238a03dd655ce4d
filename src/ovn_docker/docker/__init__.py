"""Docker: the plugin protocol that it speaks on a Unix socket, and the engine's own API."""
