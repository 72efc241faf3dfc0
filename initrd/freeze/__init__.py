"""Build `/init`: freeze CPython and the Python modules into one static binary."""
