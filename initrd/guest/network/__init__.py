"""The network that `ip=` asks for. Nothing in here is imported unless it does.

`syntax` reads the option, `configure` tells the story, `packets` and `dhcp` get a lease, `stack`
acts through sockets, `devices` finds the interfaces, `names` makes name resolution work.
"""
