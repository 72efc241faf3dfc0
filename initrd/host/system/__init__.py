"""The host's operating system: processes, descriptors, the terminal, files, system calls."""
