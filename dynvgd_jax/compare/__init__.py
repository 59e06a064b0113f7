"""Several methods on one task, each with several seeds, as one job that goes on.

`plan` says which runs there are, `local` and `cluster` start them as processes of
`launch.py`, `run` looks after them, `results` puts their last evaluations into a table.
"""
