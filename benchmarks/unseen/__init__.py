"""Faults and healthy changes that were written from the documentation alone, through whole runs of the gate."""
