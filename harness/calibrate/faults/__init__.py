"""Negative controls: faults injected into the very case whose limits are placed, so that the file knows both sides."""
