"""Fuzz the decoder with atheris, guided by coverage: any bytes decode or raise MessageError, soon and in little memory.

    pip install atheris
    python tests/guarantees/fuzz_decoder.py [-max_total_time=600] [CORPUS]

Without CORPUS the golden messages are the seeds. Ends with an error, and the offending bytes in a file crash-* or
timeout-*, on any other exception, when the process has grown by more than 64 MiB, and after 30 seconds for one input.
Linux only: elsewhere atheris has to be built.
"""

import resource
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sublora"]):
    from sublora.coding.message import MAX_SYMBOLS, decode_message
    from sublora.errors import MessageError

GOLDEN = Path(__file__).parents[1] / "golden"
LIMIT_KIB = 64 << 10


def peak_kib() -> int:
    """Return the largest size that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


START_KIB = peak_kib()


def check(data: bytes) -> None:
    """Decode; raises for anything that the decoder must not do."""
    try:
        message = decode_message(data, max_symbols=MAX_SYMBOLS)
    except MessageError:
        pass
    else:
        size, adapter = message.alpha.size, message.spec.adapter
        # The base as it is has nothing to move.
        if size > MAX_SYMBOLS or (size == 0) != (adapter == "none"):
            raise AssertionError(f"{size} symbols with adapter {adapter}")
    if (grown := peak_kib() - START_KIB) > LIMIT_KIB:
        raise MemoryError(f"the process has grown by {grown} KiB")


def main() -> None:
    """Hand over to libFuzzer."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder)
        for path in GOLDEN.glob("message_*.bin"):
            (seeds / path.name).write_bytes(path.read_bytes())
        given = sys.argv[1:]
        corpus = [] if any(not word.startswith("-") for word in given) else [folder]
        atheris.Setup([sys.argv[0], "-timeout=30", *given, *corpus], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
