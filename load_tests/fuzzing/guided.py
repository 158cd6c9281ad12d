"""One parser under atheris, in a process of its own: `… -m load_tests.fuzzing.guided NAME CORPUS -max_total_time=60`.

Nothing that is to be watched may have been imported before it is instrumented.
"""

import sys

import atheris

with atheris.instrument_imports(include=["controlplane", "events", "runtime"]):
    from load_tests.fuzzing import parsers

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], parsers.parsers()[sys.argv[1]].read)
    atheris.Fuzz()
