"""Commands that pass a certified model on: `attest`, `export`, `pack` and `sample`."""

from pathlib import Path

from jsonargparse import Namespace

from sublora.cli.command import BASE_HELP, Command, Parser, Result
from sublora.console import printable
from sublora.errors import SubloraError
from sublora.run_folder import RunFolder


def _attest_options(parser: Parser) -> None:
    parser.add_argument("run", type=Path, help="folder of the certificate")
    parser.add_argument("--key", required=True, type=Path, metavar="PEM", help="private key")
    parser.add_argument("--base", default="", help="folder of the base, if its files are to be signed too")


def _attest(options: Namespace) -> Result:
    from sublora.certificate.signing import sign_certificate
    from sublora.classification.model import read_any

    certificate = read_any(options.run)
    return Result.of_file(sign_certificate(RunFolder.of(options.run), certificate, options.key, options.base))


def _export_options(parser: Parser) -> None:
    add = parser.add_argument
    add("run", type=Path, help="folder of the certificate")
    add("--to", required=True, type=Path, metavar="DIR", help="folder to write")
    add("--base", default="", help=BASE_HELP)
    add("--data", type=Path, help="the corpus, where the prompt names documents of it")
    add("--merged", action="store_true", help="write a whole model of transformers instead")
    add("--push-to-hub", default="", metavar="OWNER/NAME", help="also upload it to the hub")
    add("--public", action="store_true", help="a repository that is made there is open to all")


def _export(options: Namespace) -> Result:
    from sublora.export.export import export

    if options.public and not options.push_to_hub:
        raise SubloraError("--public needs --push-to-hub OWNER/NAME")
    written = export(options.run, options.to, base=options.base, data_dir=options.data, merged=options.merged)
    if not options.push_to_hub:
        return Result.of_file(written)
    from sublora.export.hub import push_to_hub

    uploaded = push_to_hub(options.to, options.push_to_hub, public=options.public)
    return Result(f"{written}\n{uploaded}", {"written": str(written), "uploaded": str(uploaded)})


def _pack_options(parser: Parser) -> None:
    parser.add_argument("run", type=Path, help="folder of the certificate")
    parser.add_argument("--to", required=True, type=Path, metavar="NAME.sublora", help="file to write")


def _pack(options: Namespace) -> Result:
    from sublora.export.pack import pack

    return Result.of_file(pack(options.run, options.to))


def _sample_options(parser: Parser) -> None:
    add = parser.add_argument
    add("run", type=Path, help="folder of the certificate, or a pack")
    add("--prompt", default="", metavar="TEXT", help="beginning of the text")
    add("--tokens", type=int, default=100, metavar="N", help="how many to write")
    add("--temperature", type=float, default=1.0, metavar="T", help="0: the likeliest token")
    add("--top-k", type=int, default=0, metavar="K", help="of the K likeliest tokens; 0: of all")
    add("--seed", type=int, default=0, metavar="S", help="another one writes another text")
    add("--base", default="", help=BASE_HELP)
    add("--data", type=Path, help="the corpus, where the prompt names documents of it")
    add("--tokenizer", default="", help="as for prepare, where it does not lie beside the base")
    add("--beside-base", action="store_true", help="also write what the base alone says")
    add("--keep", action="store_true", help="also add it to the run's folder, whose report shows it")


def _sample(options: Namespace) -> Result:
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
    from sublora.report.analysis.samples import MODELS, keep_sample

    named = dict(zip(MODELS, texts, strict=False))
    if options.keep:
        keep_sample(RunFolder.of(options.run), options.prompt, named)
    headed = len(named) > 1
    words = "\n".join((f"--- {name}\n" if headed else "") + printable(text) for name, text in named.items())
    return Result(words, {"prompt": options.prompt, "texts": named})


COMMANDS = {
    "attest": Command("sign a certificate", _attest_options, _attest),
    "export": Command("write the decoded model as an adapter of PEFT, or merged", _export_options, _export),
    "pack": Command("write message, certificate and attestation into one small file", _pack_options, _pack),
    "sample": Command("write text with the decoded model", _sample_options, _sample),
}
