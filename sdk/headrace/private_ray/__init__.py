"""A private Ray cluster around an entrypoint: what a node runs for a job of `kind: ray`, with the job's own Python.

Run by the node's supervisor in place of the entrypoint, it starts Ray inside the attempt, waits until all of its nodes
are in, runs the entrypoint, and ends Ray with it. Standard library only: of the job's packages it needs nothing but
Ray, and that only in processes that it starts. Never here: anything of the server, anything that a training script
imports.
"""
