"""Runtimes that load a checkpoint: learn each version's behaviour by running the runtime's own loader."""
