"""What runs inside the virtual machine. Never imports `initrd.host`."""
