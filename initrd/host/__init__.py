"""What runs on the host. Of the other side it imports `initrd.cmdline` and `initrd.record` only."""
