"""Commands that check a certificate: `verify` it once, or `watch` it on new documents."""

from pathlib import Path

from jsonargparse import Namespace

from sublora.cli.command import BASE_HELP, Command, Parser, Result
from sublora.errors import SubloraError
from sublora.run_folder import RunFolder

ALARM = 3
"""exit status of `sublora watch` when the certificate is refuted"""


def _verify_options(parser: Parser) -> None:
    add = parser.add_argument
    add("certificate", type=Path, help="the certificate, or the folder that holds it")
    add("--data", type=Path, help="corpus: rebuild the model from the message, draw and score again")
    add("--arithmetic", action="store_true", help="check the arithmetic from the recorded losses only")
    add("--base", default="", help=BASE_HELP)
    add("--device", default="cpu", help="that scores: cpu, cuda, mps, auto")
    add("--retrain-base", action="store_true", help="also make the base again from the known documents")
    add("--start", default="", help="your own copy of the base that the fitting began with")
    add("--public-key", type=Path, metavar="PEM", help="also check who signed the certificate")
    add("--reproduced-key", type=Path, metavar="PEM", help="sign with this key that you reproduced it")


def _verify(options: Namespace) -> Result:
    if options.arithmetic == (options.data is not None):
        raise SubloraError("give either --data DIR (full replay) or --arithmetic")
    if options.arithmetic and (options.reproduced_key or (options.base and not options.public_key)):
        raise SubloraError("--base and --reproduced-key need --data DIR: the arithmetic alone measures nothing")
    if (options.retrain_base and not options.base) or (options.start and not options.retrain_base):
        raise SubloraError("--retrain-base needs --base FOLDER, and --start needs --retrain-base")
    classifier = RunFolder.holds_classifier(options.certificate)
    if classifier and options.retrain_base:
        raise SubloraError("--retrain-base is for the certificates of language models, and this is a classifier's")
    from sublora.certificate.verify import verify
    from sublora.classification.verify import VerifiedClassifier, verify_classifier

    run = RunFolder.of(options.certificate)
    found: dict[str, object] = {}
    lines: list[str] = []

    def find(name: str, value: object, words: str) -> None:
        found[name] = value
        lines.append(words)

    if options.public_key:
        # Before the replay, which takes longer.
        from sublora.certificate.signing import check_attestation
        from sublora.classification.model import read_any

        check_attestation(run, read_any(options.certificate), options.public_key, options.base)
        find("signed", str(run.attestation), f"signed: {run.attestation} by the key of {options.public_key}")
    check = verify_classifier if classifier else verify
    verified = check(options.certificate, options.data, base=options.base, device=options.device)
    find("verified", verified.to_dict(), verified.in_words())
    if options.retrain_base:
        from sublora.certificate.practised_again import practise_again
        from sublora.certificate.retrain import retrain_base

        assert not isinstance(verified, VerifiedClassifier)
        base = Path(options.base)
        if (frame := practise_again(verified.certificate, options.data, base)) is not None:
            find("frame", frame.in_words(), frame.in_words())
        # A frame can be that of a base that nobody here fitted.
        if frame is None or RunFolder(base).pretrain.is_file():
            again = retrain_base(verified.certificate, options.data, base, options.start)
            find("base", again.in_words(), again.in_words())
    if options.reproduced_key:
        from sublora.certificate.signing import sign_reproduction

        reproduced = sign_reproduction(run, verified.certificate, verified.found, options.reproduced_key, options.base)
        find("reproduced", str(reproduced), str(reproduced))
    return Result("\n".join(lines), found)


def _watch_options(parser: Parser) -> None:
    add = parser.add_argument
    add("certificate", type=Path, help="the certificate, or the folder that holds it")
    add("--data", required=True, type=Path, metavar="NEW", help="corpus of the new documents")
    add("--base", default="", help=BASE_HELP)
    add("--known", type=Path, metavar="DIR", help="the certified corpus, for its known documents")
    add("--state", type=Path, metavar="FILE", help="go on from this file, and write it")
    add(
        "--metric",
        default="",
        help="of the claim to watch (bpb, or bpd without bytes; of a classifier error, or top_2_error, ...)",
    )
    add("--alpha", type=float, default=0.05, help="probability that there is ever a false alarm")


def _watch(options: Namespace) -> Result:
    from sublora.certificate.certified import read_files
    from sublora.certificate.watching import watch_corpus
    from sublora.classification.watching import watch_classifier

    begin = watch_classifier if read_files(options.certificate).classifier else watch_corpus
    watch = begin(
        options.certificate,
        options.data,
        base=options.base,
        known=options.known,
        state=options.state,
        metric=options.metric,
        alpha=options.alpha,
    )
    return Result(watch.in_words(), watch.to_dict(), ALARM if watch.alarm else 0)


COMMANDS = {
    "verify": Command("re-check a certificate", _verify_options, _verify),
    "watch": Command(
        "read new documents, and raise an alarm once they refute a certificate",
        _watch_options,
        _watch,
    ),
}
