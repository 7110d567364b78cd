"""`python -m sublora` is the command `sublora`."""

import sys

from sublora.cli import main

sys.exit(main())
