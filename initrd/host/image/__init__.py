"""The initramfs image: cpio archives, compression, and the modules that a boot needs."""
