"""virtiofsd: identify the program, check that it can serve the shares, run it."""
