"""What another policy would have made of the jobs that there were: the recorded ledger, replayed by the real core.

`policy` reads the file, `recorded` the facts, `compare` replays and counts (all three pure), `child` is the process
that does it, and `asking` how the gateway runs that. Nothing here writes anything.
"""
