"""The parts of the pytest door: options, collection, selection, items, terminal, xdist."""
