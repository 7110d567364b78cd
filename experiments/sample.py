"""Write text with a certified model: the same as `sublora sample`."""

import sys

from sublora.cli import main

sys.exit(main(["sample", *sys.argv[1:]]))
