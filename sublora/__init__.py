"""SubLoRA: train a language model in a few hundred numbers, and prove how well it does on unseen text."""

import importlib
from typing import TYPE_CHECKING, Any

from sublora.errors import INSTALL_MODELS, of_models
from sublora.inequalities.bound import bound

if TYPE_CHECKING:
    from sublora.api import certify, compress, prepare, verify
    from sublora.certificate.watch import Watch
    from sublora.export.load import load
    from sublora.nn.wrap import wrap

__all__ = ["Watch", "__version__", "bound", "certify", "compress", "load", "prepare", "verify", "wrap"]
__version__ = "0.1.0"

# Loaded when they are asked for: torch takes seconds, and bounds need none of it.
_LATER = {name: "sublora.api" for name in ("certify", "compress", "prepare", "verify")} | {
    "Watch": "sublora.certificate.watch",
    "load": "sublora.export.load",
    "wrap": "sublora.nn.wrap",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LATER[name]), name)
    except ModuleNotFoundError as error:
        if not of_models(error):
            raise
        raise ImportError(f"sublora.{name} needs {error.name}: {INSTALL_MODELS}") from error
