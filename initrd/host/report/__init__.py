"""The report of `chrootvm --report`: the phases of a boot, as JSON or as an SVG picture."""
