"""Write the State of the Union addresses as bytes beside this file: `python data/sotu/prepare.py [FOLDER]`."""

import logging
import sys
from pathlib import Path

from sublora.corpus.prepare import prepare

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prepare("sotu", Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
