"""This machine: Open vSwitch, ovn-controller, name servers, the barrier, and other programs."""
