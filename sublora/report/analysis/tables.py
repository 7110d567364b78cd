"""The table that a certified run ends with, for a terminal; and what it has in common with the page."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from rich.table import Table

from sublora.certificate.model import Baseline, Certificate, Claim
from sublora.certificate.rounding import confidence, downward, upward
from sublora.certificate.wording import DIGITS, beaten_by, metric_name


def minus(number: str) -> str:
    """Return a number with the minus sign of print."""
    return number.replace("-", "−")


def measured(value: float) -> str:
    """Return something that was measured, rounded to the nearest."""
    return minus(f"{value:.{DIGITS}f}")


def rounded(claim: Claim, value: float) -> str:
    """Return a claim's bound or limit, rounded to the side on which it stays true."""
    return minus(upward(value, DIGITS) if claim.sense == "at most" else downward(value, DIGITS))


def at_most(bound: float) -> str:
    """Return an upper bound that is not a claim of the certificate, rounded up."""
    return minus(upward(bound, DIGITS))


def sure(certificate: Certificate) -> str:
    """Return 1 - delta in per cent, exactly."""
    return confidence(Fraction(certificate.setting.delta))


def gains(certificate: Certificate) -> list[Claim]:
    """Return the claims on the improvement over the base, in the unit of the headline; none with a random base."""
    names = (f"{certificate.headline.metric}_gain{suffix}" for suffix in ("", "_prompted", "_alone"))
    return [claim for name in names if (claim := certificate.claim(name))]


def uninteresting(certificate: Certificate) -> str:
    """Return what the certificate does not beat, in words; "" where it beats everything."""
    names = beaten_by(certificate.headline, certificate.beside)
    return f"no better than {', '.join(names)}" if names else ""


def unit_name(certificate: Certificate) -> str:
    """Return what a sample unit is called."""
    return "documents" if certificate.setting.bound_type == "document_level" else "blocks"


def held_out_loss(certificate: Certificate) -> tuple[float, str] | None:
    """Return the held-out loss in the unit of the headline, and what it was measured on; None where it was not."""
    if (held_out := certificate.held_out) is None:
        return None
    of = f"{held_out.documents:,} {held_out.part} {unit_name(certificate)}"
    value = held_out.bpb if certificate.headline.metric == "bpb" else held_out.bpd
    return None if value is None else (value, of)


def length(bits: int) -> str:
    """Return the length of a message in words."""
    return f"{bits:,} bits ({bits // 8:,} bytes)"


def compression(certificate: Certificate) -> list[tuple[str, str]]:
    """Return the message's length as a divergence from the prior, and as shares of the model that it describes."""
    bits, D, d = certificate.message.bits, certificate.prior.D, certificate.message.coordinates
    rows = [("KL(Q‖P) = K ln 2", f"{bits * math.log(2):,.0f} nats")]
    if d:
        rows.append(("D / d, parameters per coordinate", f"{D / d:,.1f}"))
    return [*rows, *([("K / (32 D), share of the parameters' float32 bits", f"{bits / (32 * D):.3g}")] if D else [])]


@dataclass(frozen=True)
class Compared:
    """A line of what a certificate is compared with. Losses are in bits per token and per byte; None is unknown."""

    name: str
    bits: int
    held_out: float | None
    bound: float
    held_out_bpb: float | None
    bound_bpb: float | None

    def in_unit_of(self, claim: Claim) -> tuple[float, str]:
        """Return the bound in the unit of a claim where it is known there, else per token; and the unit."""
        if claim.metric == "bpb" and self.bound_bpb is not None:
            return self.bound_bpb, claim.name
        return self.bound, metric_name("bpd")


def compared(certificate: Certificate) -> list[Compared]:
    """Return the certificate, and what it is compared with: earlier work's bound, simple codes, and the base alone."""
    c, held_out = certificate, certificate.held_out
    losses = (held_out.bpd, held_out.bpb) if held_out else (None, None)
    by_bytes = c.claim("bpb")
    own = Compared(
        "this certificate",
        c.message.bits,
        losses[0],
        c.claims[0].bound,
        losses[1],
        by_bytes.bound if by_bytes else None,
    )
    name = f"the same message by {c.comparison.name}"
    earlier = Compared(name, c.message.bits, losses[0], c.comparison.bound, losses[1], None)
    return [own, earlier, *map(_baseline, c.beside)]


def _baseline(b: Baseline) -> Compared:
    return Compared(b.name, b.bits, b.held_out, b.bound, b.held_out_bpb, b.bound_bpb)


def claims_table(certificate: Certificate, files: Mapping[str, Path]) -> Table:
    """Return the headline numbers of a certificate.

    Args:
        certificate: as `read_certificate` returns it.
        files: names and paths to list at the end.
    """
    table = Table(show_header=False)
    table.add_column()
    # A path may be longer than the terminal is wide: fold it, because a path that is cut cannot be used.
    table.add_column(overflow="fold")
    for row in [*_rows(certificate), *((name, str(path)) for name, path in files.items())]:
        table.add_row(*row)
    return table


def _rows(certificate: Certificate) -> list[tuple[str, str]]:
    main, at = certificate.headline, f"at {sure(certificate)}"
    rows: list[tuple[str, str]] = []
    if found := held_out_loss(certificate):
        rows.append((f"held-out {main.name}, {found[1]}", measured(found[0])))
    rows += [
        (f"measured {main.name}, mixed with the fallback", measured(main.empirical)),
        (f"measured {main.name}, decoded model alone", measured(main.model_alone)),
        ("K, length of the message", length(certificate.message.bits)),
        *compression(certificate),
        (f"certified {main.name} {at}", f"{main.sense} {rounded(main, main.bound)}"),
    ]
    for better in gains(certificate):
        rows.append((f"certified {better.name} {at}", f"{better.sense} {rounded(better, better.bound)}"))
    if names := uninteresting(certificate):
        rows.append(("Uninteresting", names))
    for line in compared(certificate)[1:]:
        bound, unit = line.in_unit_of(main)
        rows.append((f"{line.name}, {unit}", at_most(bound)))
    if top := certificate.claim("top_1_error"):
        rows.append((f"top-1 error, and its bound {at}", f"{measured(top.empirical)}, {rounded(top, top.bound)}"))
    return rows
