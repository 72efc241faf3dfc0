"""Machines that run several commands: their owner on the host, its clients, and their names."""
