"""Load the project's pytest plugin, and the plugin of pytest that tests plugins."""

pytest_plugins = ("initrd.host.pytest_plugin", "pytester")
