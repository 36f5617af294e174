"""Bringing the gate into a repository: the files of `quantgate init`, the embedded model, what the lane installs."""
