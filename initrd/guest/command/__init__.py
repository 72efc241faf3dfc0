"""Run one command for the host as PID 1: `chrootvm ROOTFS -- COMMAND`."""
