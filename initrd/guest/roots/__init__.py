"""Root directories other than a single virtiofs tag, and layers over them."""
