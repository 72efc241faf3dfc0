"""What runs on the host. Never imports `initrd.guest`: tests/test_layout.py."""
