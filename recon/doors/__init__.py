"""The doors: what PostgreSQL itself allows recon to do, where `recon init --roles` made it so (rules.md 14).

Login-less roles, each with the rights of one kind of work; views of `orders` that let through nothing but rows of an
approved plan; triggers that hold a batch to its legal life and keep the audit table append-only. Where the doors
exist, a stage takes its role for each of its transactions and goes through them; where they do not, the same
statements go to `orders` itself. Entry points: `access.behind`, `access.protection`, `roles.create_doors`.
"""
