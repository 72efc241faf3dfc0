"""virtiofsd: which one there is, how it is started, and what it may do here."""
