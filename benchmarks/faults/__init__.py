"""Fault libraries: known-bad changes, to prove that checks see them, and benign ones, that they must let pass."""
