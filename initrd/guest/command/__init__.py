"""PID 1 that runs one command for the host: `chrootvm ROOTFS -- COMMAND`."""
