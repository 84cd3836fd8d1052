"""Live venues by way of ccxt: complete evidence or a named reason why not, and never a call that changes anything."""
