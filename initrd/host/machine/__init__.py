"""From the options of chrootvm to a running machine."""
