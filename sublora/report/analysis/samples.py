"""Text that a run's model wrote, kept beside the certificate: `sublora sample --keep` writes it, the page shows it."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sublora.errors import SubloraError
from sublora.files import read_bytes, write_text
from sublora.run_folder import RunFolder


class Sample(BaseModel):
    """One beginning, and how each model went on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: str
    """the beginning"""
    texts: dict[str, str]
    """what follows it, by the model's name"""


MODELS = ("decoded model", "base")
"""whose texts are kept, in this order"""
MOST_BYTES = 1 << 20
_SAMPLES = TypeAdapter(tuple[Sample, ...])


def read_samples(run: RunFolder) -> tuple[Sample, ...]:
    """Return the samples of a run, none where nothing was kept.

    Raises:
        SubloraError: the file is damaged.
    """
    if not run.samples.exists():
        return ()
    data = read_bytes(run.samples, "the samples", SubloraError, MOST_BYTES)
    try:
        return _SAMPLES.validate_json(data)
    except ValidationError as error:
        raise SubloraError(f"{run.samples} is damaged: delete it, and sample again") from error


def keep_sample(run: RunFolder, prompt: str, texts: Mapping[str, str]) -> None:
    """Add a sample to those of a run; one of the same beginning is replaced.

    Args:
        run: its folder.
        prompt: the beginning of every text.
        texts: whole texts by the model's name.

    Raises:
        SubloraError: what was kept before is damaged.
    """
    new = Sample(prompt=prompt, texts={name: text.removeprefix(prompt) for name, text in texts.items()})
    kept = [sample for sample in read_samples(run) if sample.prompt != prompt]
    write_text(run.samples, _SAMPLES.dump_json((*kept, new), indent=2).decode() + "\n")
