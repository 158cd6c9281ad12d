"""The archive of jobs: what the ledger knew of a job that is over, moved into Parquet, and found there again.

Lives here: what is due, the files, the index of them, the one writer of `archived` and `archive_written`. Never here: a
job that is not over.
"""
