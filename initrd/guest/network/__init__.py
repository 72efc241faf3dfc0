"""Configure the network for the `ip=` option. Without `ip=`, no module of this folder is imported.

`ipconfig` parses the option, `configure` applies it, `dhcp` and `dhcp_packets` obtain a lease,
`interfaces` finds the network interfaces, `netlink` changes the kernel's settings through sockets,
`ipv4` calculates with addresses, and `resolv` writes the name servers into the new root.
"""
