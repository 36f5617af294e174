"""Attacks on the parts of quantgate that must hold against kills, damaged files and hostile text; see `__main__`."""
