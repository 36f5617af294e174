"""The gate at the size of a real checkpoint; run as ``python -m benchmarks.real_size``."""
