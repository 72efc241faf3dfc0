"""Fuzzing: arbitrary input for everything that reads bytes of a root, a guest or a network.

A target is a function that takes bytes. It raises nothing, whatever the bytes are: errors that the
code under test documents are caught by the target. `python -m tests.fuzz` runs the targets for a
time, `test_fuzz` each of them for some thousand inputs.
"""
