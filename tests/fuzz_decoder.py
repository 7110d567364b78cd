"""Fuzz the decoder with atheris, guided by coverage: any bytes decode or raise MessageError, soon and in little memory.

    pip install atheris
    python tests/fuzz_decoder.py [-max_total_time=600] [CORPUS]

Without CORPUS the golden messages are the seeds. Ends with an error, and the offending bytes in a file crash-*, on any
other exception, on more than 64 MiB of Python's memory, and on more than 10 seconds for one input.
"""

import sys
import tempfile
import tracemalloc
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sublora"]):
    from sublora.coding.message import MAX_SYMBOLS, decode_message
    from sublora.errors import MessageError

GOLDEN = Path(__file__).parent / "golden"
LIMIT = 64 << 20


def check(data: bytes) -> None:
    """Decode; raises for anything that the decoder must not do."""
    tracemalloc.start()
    try:
        message = decode_message(data, max_symbols=MAX_SYMBOLS)
    except MessageError:
        message = None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if peak > LIMIT:
        raise MemoryError(f"{len(data)} bytes took {peak} bytes of memory to decode")
    if message is not None and not 1 <= message.alpha.size <= MAX_SYMBOLS:
        raise AssertionError(f"{message.alpha.size} symbols")


def main() -> None:
    """Hand over to libFuzzer."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder)
        for path in GOLDEN.glob("message_*.bin"):
            (seeds / path.name).write_bytes(path.read_bytes())
        given = sys.argv[1:]
        corpus = [] if any(not word.startswith("-") for word in given) else [folder]
        atheris.Setup([sys.argv[0], "-timeout=10", *given, *corpus], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
