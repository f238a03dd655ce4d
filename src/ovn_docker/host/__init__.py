"""This machine: Open vSwitch, links, the controller, the Docker engine."""
