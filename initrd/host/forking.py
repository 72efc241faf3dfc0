"""fork(2), also where other threads run."""

import os
import warnings


def fork() -> int:
    """Do what os.fork() does.

    From Python 3.12 on that warns in a process with threads, because what the others hold in that
    moment stays locked in the child. Ours only makes system calls until it executes a program.
    Where warnings are errors, that one would come after the fork, with nobody to own the child.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()
