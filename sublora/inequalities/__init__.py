"""Upper bounds on a risk, from losses and the length of a message. Torch-free.

Unless a function says otherwise: the losses are those of n independent documents; the bound holds with probability at
least 1 - delta for all models that have a message, so the model may have been chosen on the same documents; losses and
bound have the same unit; and the exponent `nats` is K ln 2 + ln(1/delta).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sublora.inequalities.betting_all import betting, projected_betting
from sublora.inequalities.betting_drawn import (
    SubsampledBound,
    betting_subsampled,
    projected_subsampled,
)
from sublora.inequalities.checks import nats
from sublora.inequalities.classical import empirical_bernstein, hoeffding, kl_inverse
from sublora.inequalities.combine import weighted_minimum
from sublora.inequalities.hoeffding_drawn import hoeffding_subsampling
from sublora.inequalities.token_level import token_azuma, token_betting

__all__ = [
    "INEQUALITIES",
    "Inequality",
    "SubsampledBound",
    "betting",
    "betting_subsampled",
    "empirical_bernstein",
    "hoeffding",
    "hoeffding_subsampling",
    "kl_inverse",
    "nats",
    "projected_betting",
    "projected_subsampled",
    "token_azuma",
    "token_betting",
    "weighted_minimum",
]


@dataclass(frozen=True)
class Inequality:
    """One row of the table.

    function: computes the bound.
    statement: the bound; L is the exponent, X a loss, x a mean loss, hi and lo the limits of the loss.
    assumptions: what must hold for it.
    source: where it was proved.
    """

    function: Callable[..., Any]
    statement: str
    assumptions: str
    source: str


_ALL = "n independent documents, all measured; "
_DRAWN = "n independent documents; m drawn uniformly with replacement after the model was fixed; "

INEQUALITIES = {
    "betting": Inequality(
        betting,
        "hi - (exp(mean ln(1 + c (hi - X)) - (L + ln(pi n + 1)/2)/n) - 1)/c, any c > 0",
        _ALL + "loss <= hi",
        "Cover & Ordentlich 1996; Orabona & Jun 2021; Waudby-Smith & Ramdas 2023",
    ),
    "betting_subsampled": Inequality(
        betting_subsampled,
        "the betting bound with mean ln(1 + c (hi - X)) replaced by a betting lower bound from the draws",
        _DRAWN + "loss <= hi; (c, c2) from a pilot",
        "Waudby-Smith & Ramdas 2023, used twice",
    ),
    "hoeffding": Inequality(
        hoeffding, "x + (hi - lo) sqrt(L/(2n))", _ALL + "lo <= loss <= hi", "Hoeffding 1963, Theorem 2"
    ),
    "kl_inverse": Inequality(
        kl_inverse,
        "sup{p : n kl(x, p) <= L}, rescaled to [0, 1]",
        _ALL + "lo <= loss <= hi",
        "Hoeffding 1963, Theorem 1",
    ),
    "empirical_bernstein": Inequality(
        empirical_bernstein,
        "x + sqrt(2 V (L + ln 2)/n) + 7 (L + ln 2)/(3 (n - 1)), rescaled to [0, 1]",
        _ALL + "lo <= loss <= hi",
        "Maurer & Pontil 2009, Theorem 4",
    ),
    "hoeffding_subsampling": Inequality(
        hoeffding_subsampling,
        "x + (hi - lo) (sqrt((K ln 2 + ln(1/(r delta)))/(2n)) + sqrt(ln(1/((1-r) delta))/(2m))), r = m/(m+n)",
        _DRAWN + "losses in an interval of known length",
        "Lotfi et al. 2024",
    ),
    "token_azuma": Inequality(
        token_azuma,
        "x + (hi - lo) sqrt(L/(2M)), on the mean conditional loss given the training contexts",
        "M tokens in order, dependent in any way; lo <= loss <= hi; not the risk on new documents",
        "Lotfi et al. 2024b; Azuma 1967",
    ),
    "token_betting": Inequality(
        token_betting,
        "mean Y - (exp(mean ln(1 + lambda (Y - X)) - (L + ln G)/M) - 1)/lambda, on the same mean conditional loss",
        "M tokens in order, dependent in any way; loss <= hi; predictable Y >= least; not the risk on new documents",
        "Waudby-Smith & Ramdas 2023",
    ),
}
