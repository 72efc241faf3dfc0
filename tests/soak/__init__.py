"""Soak test: start many machines of different kinds, one after the other.

After each, its status and output are compared with what they have to be, and nothing may be left:
no process, no file in the directories for temporary and runtime files, no mount, no descriptor. The
last lines of `python -m tests.soak` are a table; its exit status is 1 when something was wrong.
"""
