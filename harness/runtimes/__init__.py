"""Runtimes that load a checkpoint: what each version does with it, learned by running the runtime's own loader."""
