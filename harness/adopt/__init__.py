"""Bring the gate into a repository: files of `quantgate init`, the embedded model, requirements of the lane's jobs."""
