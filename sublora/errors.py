"""The errors a user can cause. The command line prints their text as one line and exits with 2."""


class SubloraError(ValueError):
    """Something the user can put right; the message says what is wrong and what to do."""


class ConfigError(SubloraError):
    """An unknown key, an illegal value, or values that contradict each other."""


class CorpusError(SubloraError):
    """A corpus that is missing, empty, damaged or not the one that was expected."""


class TrainingError(SubloraError):
    """A run that cannot go on: a loss that is not a number, a damaged checkpoint."""


class AdapterError(SubloraError):
    """An adapter from elsewhere that is damaged, belongs to another base, or is of a kind that no message can say."""


class MessageError(SubloraError):
    """Bytes that are not a message."""


class CertificateError(SubloraError):
    """A certificate whose claim does not follow from its message and its corpus."""


MODELS = ("accelerate", "gguf", "peft", "tensorboard", "torch", "transformers", "wandb")
"""packages of the extra sublora[models]: bounds, codes, reports and the arithmetic of certificates need none of them"""
INSTALL_MODELS = "pip install 'sublora[models]'"


def of_models(error: ModuleNotFoundError) -> bool:
    """Return whether what is missing comes with the extra `models`."""
    return error.name is not None and error.name.partition(".")[0] in MODELS
