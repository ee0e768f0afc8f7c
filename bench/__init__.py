"""Measures the tool against its peers and its limits, by its own command line. `make bench` runs it; see docs/performance.md."""
