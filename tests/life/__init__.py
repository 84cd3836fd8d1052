"""The whole life of batches, lived at random: a world, a model of what recon must do in it, and an eye that checks.

`world.py` is the backend, the exchange and the clock; `model.py` says beforehand how a step must end, `people.py` who
may approve and sign; `seen.py` is what the database holds, in plain SQL; `invariants.py` holds what was seen before and
after a step against each promise. Only `world.py`, and `reports.py`, which keeps its reports, call recon.
"""
