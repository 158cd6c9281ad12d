"""The whole of Headrace on one machine: NATS, a Ray head with one node, and the services.

Lives here: starting them in order, keeping them up, and ending them without a trace. Never here: anything that a
cluster would need; there, Kubernetes does this.
"""
