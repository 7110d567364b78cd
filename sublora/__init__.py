"""SubLoRA: train a language model in a few hundred numbers, and prove how well it does on unseen text."""

import importlib
from typing import TYPE_CHECKING, Any

from sublora.inequalities.bound import bound

if TYPE_CHECKING:
    from sublora.certificate.watch import Watch
    from sublora.export.load import load

__all__ = ["Watch", "__version__", "bound", "load"]
__version__ = "0.1.0"

# Loaded when they are asked for: torch takes seconds, and bounds need none of it.
_LATER = {"Watch": "sublora.certificate.watch", "load": "sublora.export.load"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
