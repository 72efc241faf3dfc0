"""A command in the guest, as the host sees it."""
