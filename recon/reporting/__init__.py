"""Reports: run a notebook, judge it, seal it, render it, keep it, verify it; tables and figures for notebooks.

Nothing in here decides anything about orders: it shows a `recon.domain.StageResult` and keeps what was shown.
"""
