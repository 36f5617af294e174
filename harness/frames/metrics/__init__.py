"""The built-in metrics: fidelity to the golden, statistics that hold under drift, order of frames, LPIPS."""
