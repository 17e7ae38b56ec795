"""The benchmark: modules that compute one function, measured in turn; see tools/benchmark.py."""
