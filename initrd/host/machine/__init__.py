"""From the user's words to a running machine."""
