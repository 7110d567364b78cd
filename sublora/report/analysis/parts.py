"""A bound in its parts, and top-k errors by k: what is drawn of a certificate."""

from sublora.certificate.model import Certificate, Claim, Decomposition


def stacked(decomposition: Decomposition) -> dict[str, float]:
    """Return the parts of a bound as lengths of a stack: a smoothing that lowers the loss shortens the empirical risk.

    The mixture with a fallback code does, where the model fails on documents that the code does not.
    """
    parts = decomposition.model_dump()
    gained = min(parts["smoothing"], 0.0)
    return parts | {"empirical": parts["empirical"] + gained, "smoothing": parts["smoothing"] - gained}


def top_k_claims(certificate: Certificate) -> list[tuple[int, Claim]]:
    """Return the claims on top-k errors with their k, by growing k."""
    claims = [claim for claim in certificate.claims if claim.metric.startswith("top_")]
    return sorted(((int(claim.metric.split("_")[1]), claim) for claim in claims), key=lambda pair: pair[0])
