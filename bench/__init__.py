"""Measures what a boot costs. Nothing here is part of what is shipped."""
