"""What a run left behind, read for its page."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from sublora.certificate.model import Certificate
from sublora.certificate.reading import read_certificate
from sublora.errors import SubloraError
from sublora.report.analysis.metrics import Record, loss_unit, read_metrics
from sublora.report.analysis.samples import Sample, read_samples
from sublora.run_folder import RunFolder


@dataclass(frozen=True)
class RunResult:
    """One run.

    name: of its folder.
    certificate: None where it was not certified.
    metrics: records of training.
    samples: text that its model wrote.
    config: the configuration, as YAML.
    loss_unit: what the losses of training are in.
    """

    name: str
    certificate: Certificate | None
    metrics: list[Record]
    samples: tuple[Sample, ...]
    config: str
    loss_unit: str


def read_result(folder: Path) -> RunResult:
    """Read what a run left behind.

    Raises:
        SubloraError: the folder holds no run, or its records are damaged.
        CertificateError: the certificate is damaged or was changed.
    """
    run = RunFolder(folder)
    # Without an adapter nothing is trained, and nothing recorded.
    metrics = [] if run.certificate.exists() and not run.metrics.exists() else read_metrics(run.metrics)
    try:
        config = run.config.read_text()
    except OSError as error:
        raise SubloraError(
            f"cannot read {run.config}: {error.strerror}; give a folder that `sublora train` wrote"
        ) from error
    certificate = read_certificate(run.certificate) if run.certificate.exists() else None
    try:
        batching = (yaml.safe_load(config).get("data") or {}).get("batching")
    except (yaml.YAMLError, AttributeError) as error:
        raise SubloraError(f"{run.config} is damaged: {error}") from error
    unit = loss_unit(batching, certificate)
    return RunResult(folder.resolve().name, certificate, metrics, read_samples(run), config, unit)
