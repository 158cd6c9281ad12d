"""The command line: what a person types, and what he sees.

Lives here: commands (a module each, imported only when used), and drawing in a terminal. stdout is data, stderr is the
rest. Never here: HTTP (`headrace.client`), capturing (`headrace.capture`), anything that a Python program may need too.
"""
