"""Our own pytest plugin, and the one that tests plugins."""

pytest_plugins = ("initrd.host.pytest_plugin", "pytester")
