"""Set-up of a host: the settings of Open vSwitch, its daemons, and the removal of lost hosts."""
