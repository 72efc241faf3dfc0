"""QEMU: its command line, architectures, accelerators, kernels and console."""
