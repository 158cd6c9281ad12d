"""What runs on a node: the runner, the launcher, the supervisors of attempts, and what they need to lay a job out.

`launcher.py`, `supervisor.py` and `exit_record.py` import the standard library only.
Never here: a decision about which job runs. The leader decides, this package carries out.
"""
