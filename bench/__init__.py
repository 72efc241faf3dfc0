"""Benchmarks of boots: instructions, times and sizes. Not installed."""
