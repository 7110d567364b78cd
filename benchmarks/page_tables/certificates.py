"""Tables of single certificates: what they claim, and what stands beside."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from page_tables.markdown import ROOT, read, table
from sublora.certificate.reading import read_certificate
from sublora.certificate.rounding import downward
from sublora.certificate.wording import DIGITS
from sublora.report.analysis.competitors import best_competitor
from sublora.report.analysis.tables import (
    at_most,
    claims_table,
    compared,
    held_out_loss,
    length,
    measured,
    minus,
    rounded,
    sure,
)


def codes(run: str, uncertified: Iterable[tuple[str, float]] = ()) -> str:
    """Return a certificate beside the reference's bound, simple codes, its base, and codes that nobody certified."""
    certificate = read_certificate(ROOT / "results" / run)
    error = certificate.held_out.standard_error if certificate.held_out else 0.0
    rows = []
    for line in compared(certificate):
        own = line.held_out is not None and line.bits == certificate.message.bits
        held_out = "" if line.held_out is None else f"{line.held_out:.3f}" + (f" ± {error:.3f}" if own else "")
        by_bytes = "" if line.bound_bpb is None else at_most(line.bound_bpb)
        rows.append([line.name, f"{line.bits:,}", held_out, at_most(line.bound), by_bytes])
    rows += [[name, "", f"{loss:.3f}", "none", ""] for name, loss in uncertified]
    certified = f"certified at {sure(certificate)}"
    return table(["code", "K, bits", "held-out", certified, f"{certified}, per byte"], rows)


def scratch() -> str:
    """Return the demo from random weights beside codes that are certified and codes that are not."""
    losses = read("baselines")["held_out_bits_per_token"]
    return codes("demo_scratch", [(name, loss) for name, loss in losses.items() if "per document" in name])


def certificate(run: str) -> str:
    """Return what `sublora verify` prints of a committed certificate."""
    printed = claims_table(read_certificate(ROOT / "results" / run), {})
    return table(["", ""], [list(row) for row in zip(*(column.cells for column in printed.columns), strict=True)])


def headline(run: str) -> str:
    """Return a committed certificate in a few rows: what was measured and claimed, and what it has to beat."""
    c = read_certificate(ROOT / "results" / run)
    main, found, best, base = c.headline, held_out_loss(c), best_competitor(c), c.claim("bpb_gain_alone")
    assert found and best and base
    rows = [
        ["length of the message", length(c.message.bits)],
        [f"held-out {main.name}, {found[1]}", measured(found[0])],
        [f"certified {main.name} at {sure(c)}", f"{main.sense} {rounded(main, main.bound)}"],
        [f"certified {base.name} at {sure(c)}", f"{base.sense} {rounded(base, base.bound)}"],
        [f"best simple code ({best[0].name}), certified {main.name}", f"at most {at_most(best[1])}"],
    ]
    return table(["", ""], rows)


def runs(names: Iterable[str]) -> str:
    """Return several certificates with a pretrained base, a row each, in bits per byte."""
    rows = []
    for name in names:
        c = read_certificate(ROOT / "results" / name)
        claim, gain, alone = (c.claim(metric) for metric in ("bpb", "bpb_gain", "bpb_gain_alone"))
        prompted = c.claim("bpb_gain_prompted")
        assert claim and gain and alone and c.held_out and c.held_out.bpb is not None
        best = min((b for b in c.beside if b.bound_bpb is not None), key=lambda b: b.bound_bpb or 0.0)
        rows.append(
            [
                f"[{name}](../results/{name})",
                f"{c.message.bits:,}",
                f"{claim.model_alone:.3f}",
                f"{c.held_out.bpb:.3f}",
                f"**{at_most(claim.bound)}**",
                minus(downward(prompted.bound, DIGITS)) if prompted else "no prompt or no adapter",
                minus(downward(gain.bound, DIGITS)),
                minus(downward(alone.bound, DIGITS)),
                f"{at_most(best.bound_bpb or 0.0)}: {best.name}",
            ]
        )
    header = [
        "run",
        "K, bits",
        "model alone",
        "held out, with its fallback",
        "certified at most",
        "below the base with the same prompt and fallback, at least",
        "below the base with the same fallback, at least",
        "below the base alone, at least",
        "best simple code, certified",
    ]
    return table(header, rows)


# What is known beforehand, and LoRA of the same layers without a subspace where it was measured: steps and loss.
BASES = {
    "demo_scratch": ("nothing: random weights, speeches", None),
    "sotu_before": ("speeches before 1930", None),
    "demo": ("SmolLM2, older documentation", None),
    "smollm2_prompt": ("the same", None),
    "smollm2_docs": ("the same", "all of LoRA"),
    "smollm2_share": ("the same, and half of the new text", None),
}


def bases() -> str:
    """Return the committed runs by what their base knew: bits per byte, held out and certified."""
    rows = []
    for run, (known, unlimited) in BASES.items():
        c = read_certificate(ROOT / "results" / run)
        claim = c.claim("bpb")
        assert claim and c.held_out and c.held_out.bpb is not None
        bounds = {b.name: b.bound_bpb for b in c.beside if b.bound_bpb is not None}
        ngrams = {name: bound for name, bound in bounds.items() if "fitted" in name}
        ngram = min(ngrams, key=lambda name: ngrams[name])
        whole = [r["after"] for r in read("frames")["rows"] if r["name"] == unlimited]
        alone, base = c.held_out.base_bpb, c.base_alone.bound_bpb if c.base_alone else None
        rows.append(
            [
                f"[{run}](../results/{run})",
                known,
                "" if alone is None else f"{alone:.3f}",
                "" if base is None else at_most(base),
                f"{c.message.coordinates:,}",
                f"{c.message.bits:,}",
                f"{claim.model_alone:.3f}",
                f"{c.held_out.bpb:.3f}",
                f"**{at_most(claim.bound)}**",
                f"{whole[0]:.3f}" if whole else "",
                f"{at_most(ngrams[ngram])}: {ngram}",
            ]
        )
    header = [
        "run",
        "known beforehand",
        "base alone, held out",
        "base with fallback, certified",
        "d",
        "K, bits",
        "model alone, measured",
        "with fallback, held out",
        "certified",
        "all of LoRA, 60 steps, held out",
        "best n-gram, certified",
    ]
    return table(header, rows)


def annotated(run: str) -> str:
    """Return every field of a committed certificate: its value, and what it means by the schema."""
    schema = json.loads((ROOT / "docs" / "certificate.schema.json").read_text())
    text = json.loads((ROOT / "results" / run / "certificate.json").read_text())
    return table(["field", "value", "meaning"], list(_fields("", text, schema, schema["$defs"])))


def _fields(prefix: str, value: Any, schema: Any, definitions: Any) -> Iterator[list[str]]:
    """Yield the rows of an object; of a list of objects, those of its first entry."""
    for name, field in schema["properties"].items():
        held, path = value[name], f"{prefix}{name}"
        first = held[0] if isinstance(held, list) else held
        several = f" ({len(held)} entries, the first is shown)" if isinstance(held, list) and len(held) > 1 else ""
        if isinstance(first, dict) and (inner := _definition(first, field, definitions)):
            yield [f"`{path}`", "", field["description"] + several]
            yield from _fields(f"{path}.", first, inner, definitions)
        else:
            yield [f"`{path}`", _shown(first), field["description"] + several]


def _definition(value: Any, field: Any, definitions: Any) -> Any:
    """The schema of an object: the definition that has its fields."""
    names = {reference.rsplit("/", 1)[1] for reference in re.findall(r"#/\$defs/\w+", json.dumps(field))}
    return next((definitions[n] for n in sorted(names) if definitions[n]["properties"].keys() == value.keys()), None)


def _shown(value: Any) -> str:
    text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else json.dumps(value)
    text = text.strip('"').replace("|", "\\|").replace("\\u2009", " ")
    return text if len(text) < 400 else f"{text[:380]} ..."
