"""Too much of everything, one thing after another: `python -m load_tests.overload --submits 50000`.

A burst of submits, clients that never read or never ask, consumers that hang, and DEAD, LOGS, METRICS and LEDGER at
their limits, LEDGER also full to the last byte while jobs run. Each refusal must be an answer with a time to come back,
each acknowledged submit must become one job, and all must be well afterwards. The resident memory of each service is
read after every step.
"""
