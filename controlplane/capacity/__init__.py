"""Which nodes there are, and a runner on each.

Lives here: Ray and (later) Kubernetes as the source of nodes. Never here: what runs on them.
"""
