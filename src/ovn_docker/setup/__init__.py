"""Set-up of machines: the databases of the central ones, Open vSwitch and OVN on hosts, step by step."""
