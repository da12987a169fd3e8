"""One app does its worst; the other must not notice. A table of attacks, judged by one oracle.

`attacks_*.py` has the attacks, `oracle.py` says what the other app may feel of them, and `stage.py` is what both stand
on: a real process with few descriptors, two apps, an upstream and receivers.
"""
