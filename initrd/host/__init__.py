"""The programs of the host. Never imports `initrd.guest`, as tests/test_layout.py checks."""
