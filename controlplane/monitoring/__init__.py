"""Numbers and output of jobs: taken in once, kept, asked for.

Lives here: the one writer of the metrics store. Never here: a decision about a job.
"""
