"""Commands that explain: `show` a file, `report` runs, and the `doctor` of this machine."""

import json
from pathlib import Path

from jsonargparse import Namespace

from sublora.cli.command import Command, Parser, Result
from sublora.console import printable
from sublora.errors import SubloraError


def _show_options(parser: Parser) -> None:
    parser.add_argument("file", type=Path, help="message, certificate, attestation, pack, or the folder of a run")


def _show(options: Namespace) -> Result:
    from sublora.report.show import show, show_json

    return Result(printable(show(options.file)), json.loads(show_json(options.file)))


def _doctor(options: Namespace) -> Result:
    from sublora.doctor import examine

    lines = list(examine())
    return Result("\n".join(lines), {"machine": lines})


def _report_options(parser: Parser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", help="a run's folder; several, or with --out, are compared")
    parser.add_argument("--out", type=Path, help="folder of the comparison")


def _report(options: Namespace) -> Result:
    if options.out is None and len(options.runs) > 1:
        raise SubloraError("give --out FOLDER to compare several runs")
    if options.out is not None:
        from sublora.report.pages.suite import write_suite_report

        only = options.runs[0] if len(options.runs) == 1 else options.runs
        return Result.of_file(write_suite_report(only, options.out))
    from sublora.report.pages.html import write_report

    return Result.of_file(write_report(options.runs[0]))


COMMANDS = {
    "show": Command("say what a file is, field by field", _show_options, _show),
    "doctor": Command(
        "say what this machine has, and about how long the demos take on it", lambda parser: None, _doctor
    ),
    "report": Command("write the page of a run, or one that compares several", _report_options, _report),
}
