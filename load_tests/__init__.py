"""Benchmarks, simulations and fault campaigns. Each runs alone and ends with a line of JSON.

Lives here: what measures. Never here: a test that passes or fails by the clock.
"""
