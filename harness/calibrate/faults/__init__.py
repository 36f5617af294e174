"""Inject faults into the case whose limits are placed, so that the limit file has healthy and faulty samples."""
