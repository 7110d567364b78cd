"""Write OpenWebText as GPT-2 tokens beside this file: `python data/openwebtext/prepare.py [FOLDER]`.

It needs `pip install 'sublora[corpora]'`, a network, some hours, and 18 GB for 9 billion tokens.
"""

import logging
import sys
from pathlib import Path

from sublora.corpus.prepare import prepare

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prepare("openwebtext", Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
