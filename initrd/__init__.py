"""Boot a virtual machine straight from a directory: `/init`, and the tools around it."""

__version__ = "0.1.0"
