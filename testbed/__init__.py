"""Kernels, root directories and programs for the tests, the benchmarks and the demo."""
