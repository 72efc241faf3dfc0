"""Change the sources in one place, and see whether a unit test fails: mutation testing.

A loop of our own, in place of mutmut or cosmic-ray: many unit tests start further programs from the
checkout, which mutmut does not follow, and changed code of this project can kill all processes or
delete files. So each run of the tests is in namespaces of its own, on a copy of the sources.
"""
