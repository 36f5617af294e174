"""The parts of the pytest plugin: options, collection, selection, items, terminal, xdist."""
