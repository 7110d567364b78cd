"""Train: the same as `sublora train`."""

import sys

from sublora.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
