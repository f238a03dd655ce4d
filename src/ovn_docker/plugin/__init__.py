"""What Docker says: the plugin protocol on a Unix socket."""
