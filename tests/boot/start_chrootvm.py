"""Execute scripts/chrootvm; with CHROOTVM_TEST_WARM in the environment, add --warm to a command."""

import os
import sys

PROGRAM = os.path.abspath(f"{__file__}/../../../scripts/chrootvm")
WARM = "CHROOTVM_TEST_WARM"

if __name__ == "__main__":
    words = sys.argv[1:]
    starts = "--in" not in words and ("--" in words or "--name" in words)
    warm = ["--warm"] if os.environ.get(WARM) and starts else []
    os.execv(sys.executable, [sys.executable, PROGRAM, *warm, *words])
