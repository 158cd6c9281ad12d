"""`python -m controlplane SERVICE…`: see `controlplane.main`."""

import sys

from controlplane.main import main

sys.exit(main())
