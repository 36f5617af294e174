"""Place limits from samples of healthy and faulty runs, and compute the faults that a gate with them detects.

Pure arithmetic on samples: no engine is run here. It works on *distances* (``distance``): the distance of a value from
the value of two identical clips; larger is worse, zero is perfect.
"""
