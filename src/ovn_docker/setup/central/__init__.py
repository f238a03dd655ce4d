"""Set-up of a central machine: the two databases of OVN, ovn-northd, their cluster and their copies."""
