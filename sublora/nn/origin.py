"""Where theta0 comes from, as far as a message can say it."""

from dataclasses import dataclass

from sublora.config import Sublora


@dataclass(frozen=True)
class Origin:
    """A pretrained base as it was loaded, and the adapter that was added to it from a seed."""

    sublora: Sublora
    """adapter, subspace and allocation"""
    seed: int
    """of LoRA's initialisation and of the operator"""
    base_sha256: str
    """of the base's weights, see `sublora.nn.weights.hash_weights`"""
    base_name: str
    """folder or hub id that the base was loaded from; "" where it does not say"""
