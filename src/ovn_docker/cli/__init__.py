"""The commands of the operator: the ovn-docker tool."""
