"""The door for people: REST, server-sent events, blobs.

Lives here: what CLI and web page call, and the API of Ray Jobs. Never here: a state of its own that cannot be rebuilt
from the ledger; what Ray's API keeps beside it is in the blob store, and no decision depends on it.
"""
