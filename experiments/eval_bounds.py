"""Certify a checkpoint: the same as `sublora bounds`."""

import sys

from sublora.cli import main

sys.exit(main(["bounds", *sys.argv[1:]]))
