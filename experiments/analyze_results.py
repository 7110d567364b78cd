"""Analyse a suite of runs: the same as `sublora report`."""

import sys

from sublora.cli import main

sys.exit(main(["report", *sys.argv[1:]]))
