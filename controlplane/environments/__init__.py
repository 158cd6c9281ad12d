"""Environments: solved once for all jobs that want them.

Lives here: from an environment request to a lock. Never here: laying one out on a node (`runtime.materialise`).
"""
