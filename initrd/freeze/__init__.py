"""How `/init` is frozen into one static binary."""
