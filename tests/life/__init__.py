"""The whole life of batches, lived at random: a world, a model of what recon must do in it, and an eye that checks.

`backend.py` is the backend, the exchange, the clock and the people, `world.py` the steps of recon, `reports.py` keeps
their reports; `model.py` says beforehand how a step must end, `people.py` who may approve and sign; `seen.py` is what
the database holds, in plain SQL; `invariants.py` holds what was seen before and after a step against each promise. The
last four call no recon.
"""
