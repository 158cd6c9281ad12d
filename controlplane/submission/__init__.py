"""Requests become facts at one door.

Lives here: what is checked of a request, and what is written because of it. Never here: when a job runs.
"""
