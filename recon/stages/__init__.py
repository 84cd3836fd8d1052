"""The stages of one batch, one module each, in the order of the runbook.

Each takes a `Workspace`, a profile_id and a batch_id and returns a `StageResult`; a refusal is raised as
`Refused` and becomes a result in `recon.incident`.
"""
