"""Which nodes there are, and a runner on each.

Lives here: Ray as the source of nodes. Never here: which machines are ours (`controlplane.pool`), what runs on them.
"""
