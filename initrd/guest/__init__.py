"""The code of `/init`, which runs in the virtual machine. Never imports `initrd.host`."""
