"""The driver as a daemon: settings to objects, control socket, log, metrics."""
