"""The command `sublora`. Thin: a subcommand reads its options and calls one function.

torch is imported only where it is needed, so that `sublora --help` answers at once.
"""

from sublora.cli.program import main

__all__ = ["main"]
