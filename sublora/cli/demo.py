"""The demo: everything from the text to the report, in one process but for the verification."""

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sublora.config import Config
from sublora.run_folder import RunFolder


def demo(config: Config) -> RunFolder:
    """Prepare, train, certify, verify, sample and report; return the run, whose folder says how long each step took.

    Args:
        config: of the run; the certificate is configured by it too.

    Raises:
        SubloraError: a step failed.
    """
    from sublora.certificate.issue import certify
    from sublora.corpus.prepare import prepare
    from sublora.files import write_text
    from sublora.report.pages.html import write_report
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
        certify(_of_the_best(config, run))
    with timed("verify"):
        verify_elsewhere(run, config)
    with timed("sample"):
        _sample(config, run)
    with timed("report"):
        write_report(run.path)
    write_text(run.times, json.dumps(seconds, indent=2) + "\n")
    return run


def _sample(config: Config, run: RunFolder) -> None:
    """Keep what the model writes when nothing is begun, and what its base does: the report shows both."""
    from sublora.export.sample import Sampling, sample
    from sublora.report.analysis.samples import MODELS, keep_sample

    texts = sample(
        run.path,
        "",
        Sampling(),
        base=config.prior.base,
        data_dir=Path(config.data.dataset_dir),
        # Where none is named, a source has bytes or GPT-2's, and bytes need no name.
        tokenizer=config.corpus.tokenizer or "gpt2",
        beside_base=True,
    )
    keep_sample(run, "", dict(zip(MODELS, texts, strict=True)))


def _of_the_best(config: Config, run: RunFolder) -> Config:
    """The configuration with the best checkpoint of a run, as flags would name it."""
    model = dataclasses.replace(config.model, init_from="best_ckpt", best_checkpoint_path=str(run.path))
    explicit = config.explicit | {"model.init_from", "model.best_checkpoint_path"}
    return dataclasses.replace(config, model=model, explicit=explicit)
