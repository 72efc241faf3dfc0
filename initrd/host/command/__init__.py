"""The host's side of a command that runs in the guest."""
