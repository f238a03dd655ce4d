"""The kernel of this machine: links, packets, and the nftables rules that guard containers."""
