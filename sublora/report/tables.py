"""The table that a certified run ends with, for a terminal."""

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from rich.table import Table

DIGITS = 4


def upward(value: float, digits: int = DIGITS) -> str:
    """Return a bound with so many decimals, rounded up: a claim rounded down would not be the one that was proved."""
    return str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))


def minus(number: str) -> str:
    """Return a number with the minus sign of print."""
    return number.replace("-", "−")


def headline(certificate: dict[str, Any]) -> dict[str, Any]:
    """Return the claim that stands for the certificate: bits per byte, or bits per token where bytes are unknown."""
    claims = {claim["metric"]: claim for claim in certificate["claims"]}
    return claims.get("bpb", claims["bpd"])


def confidence(certificate: dict[str, Any]) -> str:
    """Return 1 - delta in per cent."""
    return f"{100 * (1 - certificate['delta']):g} %"


def length(bits: int) -> str:
    """Return the length of a message in words."""
    return f"{bits:,} bits ({bits // 8:,} bytes)"


def compression(certificate: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the message's length as a divergence from the prior, and as shares of the model that it describes.

    Certificates of older versions do not hold the number d of coordinates; they have no D / d.
    """
    bits, D = certificate["message"]["bits"], certificate["prior"]["D"]
    rows = [("KL(Q‖P) = K ln 2", f"{bits * math.log(2):,.0f} nats")]
    if d := certificate["message"].get("coordinates"):
        rows.append(("D / d, LoRA parameters per coordinate", f"{D / d:,.1f}"))
    return [*rows, ("K / (32 D), share of the parameters' float32 bits", f"{bits / (32 * D):.3g}")]


def beside(certificate: dict[str, Any]) -> list[tuple[str, int, float | None, float]]:
    """Return what the certificate is compared with: name, K in bits, held-out loss and certified bound.

    The losses are in bits per token. The held-out loss is None where there are no held-out documents.
    """
    message = certificate["message"]["bits"]
    held_out = certificate["held_out"]["bpd"] if certificate["held_out"] else None
    rows = [
        (f"the same message by {c['name']}", message, held_out, c["bound"])
        for c in certificate["comparison"]
        if c["metric"] == "bpd"
    ]
    return rows + [(b["name"], b["bits"], b["held_out"], b["bound"]) for b in certificate.get("baselines", [])]


def claims_table(certificate: dict[str, Any], files: Mapping[str, Path]) -> Table:
    """Return the headline numbers of a certificate.

    Args:
        certificate: as `read_certificate` returns it.
        files: names and paths to list at the end.
    """
    main = headline(certificate)
    unit, sure = main["name"], confidence(certificate)
    rows: list[tuple[str, str]] = []
    if held_out := certificate["held_out"]:
        rows.append((f"held-out {unit}", f"{held_out[main['metric']]:.{DIGITS}f}"))
    rows += [
        (f"empirical {unit} of the decoded model", f"{main['empirical']:.{DIGITS}f}"),
        ("K, length of the message", length(certificate["message"]["bits"])),
        *compression(certificate),
        (f"certified {unit} at {sure}", upward(main["bound"])),
    ]
    rows += [(f"{name}, bits per token", upward(bound)) for name, _, _, bound in beside(certificate)]
    for claim in certificate["claims"]:
        if claim["metric"] == "top_1_error":
            value = f"{claim['empirical']:.{DIGITS}f}, {upward(claim['bound'])}"
            rows.append((f"top-1 error, and its bound at {sure}", value))
    rows += [(name, str(path)) for name, path in files.items()]
    table = Table(show_header=False)
    table.add_column()
    # A path may be longer than the terminal is wide: fold it, because a path that is cut cannot be used.
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
