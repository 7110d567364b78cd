"""The command `sweep`: every run of a grid, here or on a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from sublora.cli.command import Command, Parser, Result
from sublora.console import rows

if TYPE_CHECKING:
    from rich.table import Table


def _options(parser: Parser) -> None:
    add = parser.add_argument
    add("--config-file", "--config", required=True, type=Path, help="grid, as config/adaptive_experiments.yaml")
    add("--only", default="*", metavar="GLOB", help="only the runs whose name matches")
    add("--jobs", type=int, help="runs at a time (1 on this machine, all of them with Slurm)")
    add("--launcher", choices=("local", "slurm"), default="local", help="where the runs take place")
    add(
        "--slurm",
        type=dict[str, Any],
        default={},
        metavar="{NAME: VALUE}",
        help="parameters of sbatch, also one by one: --slurm.partition gpu --slurm.cpus_per_task 4",
    )
    add("--dry-run", action="store_true", help="print what would be submitted")


def _sweep(options: Namespace) -> Result:
    from sublora.sweep.sweep import Options, sweep

    how = Options(options.only, options.launcher, options.jobs, dict(options.slurm), options.dry_run)
    if not options.json:
        sweep(options.config_file, how)
        return Result("")
    tables: list[Table] = []
    sweep(options.config_file, how, tables.append)
    return Result("", {"tables": [{"title": str(table.title), "rows": rows(table)} for table in tables]})


COMMANDS = {"sweep": Command("train, certify and verify every run of a grid", _options, _sweep)}
