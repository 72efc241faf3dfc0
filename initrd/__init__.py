"""Boot a virtual machine from a directory: `/init`, and the programs of the host."""

__version__ = "0.1.0"
