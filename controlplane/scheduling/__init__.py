"""Which job first, on what, and why.

Lives here: the scheduler core, its leader, and the explanation of its decisions. Never here: starting a process.
"""
