"""PID 1 while a command runs for the host."""
