"""Shapes in annotations are checked in every test; threads are few, since tests run side by side."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Not the functions that code single bits: there, a check takes a hundred times as long as what it checks.
CODING = sorted(
    f"sublora.coding.{path.stem}"
    for path in (Path(__file__).parent.parent / "sublora" / "coding").glob("*.py")
    if path.stem not in ("__init__", "decisions", "ngram_message", "bits")
)
ROOMS = (
    "corpus",
    "nn",
    "training",
    "foreign",
    "inequalities",
    "scoring",
    "quantizing",
    "certificate",
    "classification",
    "report",
)
install_import_hook(
    [*CODING, *(f"sublora.{room}" for room in ROOMS)],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Return the processor, and a CUDA device where there is one."""
    from devices import device_or_skip

    return device_or_skip(request.param)


@pytest.fixture(scope="session")
def sotu(tmp_path_factory):
    """Return the State of the Union addresses in bytes, prepared once."""
    # Imported after the hook, so that they are checked too.
    from sublora.corpus.corpus import open_corpus
    from sublora.corpus.prepare import prepare

    # Processor time: on a busy machine the clock says little.
    start = time.process_time()
    corpus = open_corpus(prepare("sotu", tmp_path_factory.mktemp("sotu")))
    assert time.process_time() - start < 10
    return corpus


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Return a corpus of 400 sentences, prepared once."""
    from certified_run import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus") / "a")


@pytest.fixture(scope="session")
def certified(data_dir, tmp_path_factory):
    """Return the folder of a run on that corpus, trained and certified once; tests copy it before they change it."""
    from certified_run import flags

    from sublora.certificate.issue import certify
    from sublora.config import load_config
    from sublora.training.loop import train

    out_dir = tmp_path_factory.mktemp("run")
    train(load_config(flags(data_dir, out_dir)))
    certify(load_config(flags(data_dir, out_dir)))
    return out_dir


@pytest.fixture(autouse=True, scope="session")
def simple_codes_are_fitted_once():
    """Fit the simple codes of a corpus once: hundreds of replays measure the same ones, and each takes seconds."""
    import dataclasses

    from sublora.certificate import evidence

    fitted, fit = {}, evidence.baselines

    def remembered(corpus, code, terms):
        # K and the mixture weight are the codes' own.
        same = dataclasses.replace(terms, bits=0, mixture_weight=0.5, joint=False, subsampled=False)
        parts = (corpus.train, corpus.test, corpus.val, corpus.prior)
        hashes = [None if part is None else part.content_sha256() for part in parts]
        key = (*hashes, code.name, corpus.min_tokens, repr(same))
        if key not in fitted:
            fitted[key] = fit(corpus, code, terms)
        return fitted[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "baselines", remembered)
        yield
