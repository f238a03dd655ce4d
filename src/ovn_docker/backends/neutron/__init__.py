"""Underlay mode: networks, ports and subports of Neutron."""
