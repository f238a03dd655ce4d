"""Moves a network interface into a bridge of Open vSwitch, and back, without losing the connection."""
