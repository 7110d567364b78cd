"""The program: one parser of all subcommands, what went wrong in one line, and the exit status."""

import logging
import os
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentError, set_parsing_settings

from sublora import __version__
from sublora.cli import configured, corpus, passing_on, reading, sweep, verification
from sublora.cli.command import Command, Parser, say
from sublora.config.loading import check_words
from sublora.errors import INSTALL_MODELS, SubloraError, of_models

COMMANDS: dict[str, Command] = {
    "prepare": corpus.COMMANDS["prepare"],
    **configured.COMMANDS,
    "import": corpus.COMMANDS["import"],
    **verification.COMMANDS,
    **passing_on.COMMANDS,
    **reading.COMMANDS,
    **sweep.COMMANDS,
}


def help_of(name: str) -> str:
    """Return the help of a subcommand, as its page of the documentation shows it."""
    parser = _own(name, with_options=True)
    return str(parser.format_help())


def _own(name: str, *, with_options: bool) -> Parser:
    command = COMMANDS[name]
    own = Parser(prog=f"sublora {name}", description=command.help)
    if with_options:
        own.add_argument("--json", action="store_true", help="print the result as one JSON object")
        own.add_argument("--quiet", action="store_true", help="print the result and errors alone")
        command.add_options(own)
    return own


def _parser(words: Sequence[str]) -> Parser:
    """The parser of some words. Options are many, so only the subcommand that is called has them, or, where a shell
    asks for what it may complete, every one.
    """
    every = any(word.startswith("--print_completion") for word in words)
    set_parsing_settings(add_print_completion_argument=True)
    parser = Parser(
        prog="sublora",
        description="Train a language model in a random subspace, and certify it from a few hundred bytes.",
        version=__version__,
    )
    subcommands = parser.add_subcommands(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        own = _own(name, with_options=every or name in words[:1])
        subcommands.add_subcommand(name, own, help=command.help)
        if not every:
            # Without the words that jsonargparse puts before a subcommand, and its completion wants there.
            own.prog = f"sublora {name}"
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; return the exit status.

    0: done. 2: an error that the user can put right. 3: an alarm of `watch`. 130: interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else ""
    # Read by OpenMP when torch is loaded. Its threads spin at the end of every operation, by default for so long that
    # one busy neighbour on the machine makes training ten times as slow; a short spin costs an idle machine little.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        command = COMMANDS.get(name)
        if command and command.configured:
            check_words(words[1:])
        parsed = _parser(words).parse_args(words, defaults=not (command and command.configured))
        options = parsed[parsed.subcommand]
        _log(quiet=options.get("quiet", False))
        result = COMMANDS[parsed.subcommand].run(options)
    except ArgumentError as error:
        where = f"sublora {name} --help" if name in COMMANDS else "sublora --help"
        sys.stderr.write(f"sublora: error: {' '.join(str(error).split())}; see {where}\n")
        return 2
    except (SubloraError, OSError) as error:
        sys.stderr.write(f"sublora: error: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        if not of_models(error):
            raise
        sys.stderr.write(f"sublora: error: this command needs {error.name}: {INSTALL_MODELS}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("sublora: interrupted: the same command goes on\n")
        return 130
    # Of the processes that torchrun starts, one speaks.
    if os.environ.get("RANK", "0") == "0":
        say(result, as_json=options.get("json", False))
    return result.status


def _log(*, quiet: bool) -> None:
    """What a command does goes to standard error; with `quiet`, warnings alone."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("sublora").setLevel(logging.WARNING if quiet else logging.INFO)
    # matplotlib embeds fonts in PDF figures with it, and it reports every table of a font.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
