"""Commands that take the whole configuration: `pretrain`, `practise`, `train`, `bounds` and `demo`."""

import json
from collections.abc import Callable

from jsonargparse import Namespace

from sublora.cli.command import Command, Parser, Result
from sublora.config import Config, add_keys, config_from_values, given_keys
from sublora.run_folder import RunFolder

DEMO_FILE = "config/demo.yaml"


def _options(parser: Parser) -> None:
    # Two hundred keys, each with its own brackets, would hide what the command is.
    parser.usage = f"{parser.prog} [--config FILE] [--section.key=value ...]"
    parser.add_argument(
        "--print_config",
        action="store_true",
        help="print the configuration that these files and flags make, as YAML, and stop",
    )
    add_keys(parser)


def _command(text: str, run: Callable[[Config], Result], file: str = "") -> Command:
    """A command that runs on the configuration, from `file` where none is given."""

    def configured(given: Namespace) -> Result:
        if file and not given.get("config"):
            given.config = [file]
        config = config_from_values(given_keys(given))
        if given.get("print_config"):
            return Result(config.to_yaml().rstrip(), config.to_dict())
        return run(config)

    return Command(text, _options, configured, configured=True)


def _pretrain(config: Config) -> Result:
    from sublora.training.pretrain import pretrain

    return Result.of_file(pretrain(config))


def _practise(config: Config) -> Result:
    from sublora.training.practise import practise

    return Result.of_file(practise(config))


def _train(config: Config) -> Result:
    from sublora.training.loop import train

    return Result.of_file(train(config))


def _bounds(config: Config) -> Result:
    if config.data.batching == "labels":
        return _classifier_bounds(config)
    from sublora.certificate.issue import certify

    return certified(RunFolder.of(certify(config)))


def _classifier_bounds(config: Config) -> Result:
    from sublora.classification.issue import certify_classifier
    from sublora.classification.model import read_classifier_certificate
    from sublora.classification.wording import table

    path = certify_classifier(config)
    certificate = read_classifier_certificate(path)
    return Result(f"{table(certificate)}\n\n{certificate.statement}", {"certificate": json.loads(path.read_bytes())})


def _demo(config: Config) -> Result:
    from sublora.cli.demo import demo

    return certified(demo(config))


def certified(run: RunFolder) -> Result:
    """Return the table of a certified run."""
    from sublora.certificate.reading import read_certificate
    from sublora.report.analysis.tables import claims_table

    certificate = read_certificate(run.certificate)
    files = {path.name: path for path in (run.certificate, run.message, run.report) if path.exists()}
    value = {
        "certificate": json.loads(certificate.to_text()),
        "files": {name: str(path) for name, path in files.items()},
    }
    return Result(claims_table(certificate, files), value)


COMMANDS = {
    "pretrain": _command("fit a base to the documents known beforehand", _pretrain),
    "practise": _command("give a base a frame that is learned from the documents known beforehand", _practise),
    "train": _command("train the coordinates of a subspace", _train),
    "bounds": _command("quantize, write the message, and certify", _bounds),
    "demo": _command("prepare, train, bounds, verify and report in one go", _demo, DEMO_FILE),
}
