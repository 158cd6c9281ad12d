"""The contract: every message, subject, stream and state that services share, and the bus that carries them.

Lives here: message types, the lifecycle table, the spelling of subjects, the limits of streams, the one wrapper over
NATS, the ledger on top of it, and the content-addressed blob store for what is too large for a message.
Never here: a decision of any service. This package imports nothing else of ours.
"""
