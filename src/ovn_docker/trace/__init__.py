"""Follow a packet hop by hop, with the trace tools of OVN and Open vSwitch, and with real packets."""
