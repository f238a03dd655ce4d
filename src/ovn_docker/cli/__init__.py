"""What an operator types: the daemon and the ovn-docker tool."""
