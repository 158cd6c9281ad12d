"""The contract for other languages: a JSON Schema for every message, and `asyncapi.yaml` with every subject.

Generated from `events/messages.py`, `events/subjects.py` and `channels.py` here by `python -m events.schema`; a test
fails when what is committed is not what would be generated. Never edited by hand.
"""
