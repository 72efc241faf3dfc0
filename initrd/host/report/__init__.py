"""The report of `chrootvm --report`."""
