"""Root directories other than a single virtiofs tag, overlays over a root, container bundles."""
