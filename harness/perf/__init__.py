"""Time and memory: measuring, baselines, judgement, trend and causes."""
