"""A venue on loopback: one scenario, told in the REST dialects of several exchanges, with paging and faults.

`scenario` says what happened on an account, `server` tells it over HTTP, `faults` says which answers go wrong, and
`clients` points an unmodified client at it. Each dialect is a module of its own.
"""
