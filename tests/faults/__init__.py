"""Faults of every kind at every moment of an apply and of a rollback, and what is left when they struck.

`fault_runs.py` runs all of it and prints the figures; `tests/test_faults.py` runs a part of each sweep, and every sweep
once more with a guard taken out, to show that the judge can fail.
"""
