"""The door for people: REST, server-sent events, blobs.

Lives here: what CLI and web page call. Never here: a state of its own that cannot be rebuilt from the ledger.
"""
