"""Kernels, root directories and programs that the tests, the benchmarks and the demo boot."""
