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
    """Prepare, train, certify, verify and report; return the run, with the seconds that each step took in its folder.

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
    with timed("report"):
        write_report(run.path)
    write_text(run.times, json.dumps(seconds, indent=2) + "\n")
    return run


def _of_the_best(config: Config, run: RunFolder) -> Config:
    """The configuration with the best checkpoint of a run, as flags would name it."""
    model = dataclasses.replace(config.model, init_from="best_ckpt", best_checkpoint_path=str(run.path))
    explicit = config.explicit | {"model.init_from", "model.best_checkpoint_path"}
    return dataclasses.replace(config, model=model, explicit=explicit)
