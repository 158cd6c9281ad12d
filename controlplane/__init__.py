"""The services beside the nodes: they turn requests into facts, facts into decisions, and keep what jobs report.

Each service is a folder: `core.py` is pure (no I/O, clock or randomness), `service.py` is the shell around it.
Never here: anything that runs on a node, anything that a laptop installs.
"""
