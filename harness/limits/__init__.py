"""How far a healthy run strays, where a limit goes, and what a gate with that limit can and cannot see.

Pure arithmetic on samples: nothing here runs anything. All of it works on *distances*: how far a value lies from the
value of two identical clips, larger is worse, zero is perfect (``distance``).
"""
