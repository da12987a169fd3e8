"""Several processes of relay on one database, in one event loop, with virtual time and faults from one seed.

`python -m tests.simulation 7 1` runs seed 7, and prints what is wrong and what happened.
"""
