"""How many faults are found at how many false alarms: the harness's gate and other projects' pass rules.

``python -m benchmarks.power`` generates with the embedded Wan2.2, breaks and disturbs it, applies every rule to the
same outputs and prints the tables. What is generated is kept as one small JSON a run, so that it can be stopped and
gone on with, and scored elsewhere than it was generated.
"""
