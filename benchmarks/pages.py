"""Put the numbers of committed result files into the tables of README.md and the pages in docs.

    python benchmarks/pages.py

A table stands between `<!-- NAME -->` and the next `<!-- end -->`. The tests check that the pages are up to date.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sublora.certificate.reading import read_certificate
from sublora.certificate.rounding import downward
from sublora.certificate.wording import DIGITS
from sublora.classification.model import read_classifier_certificate
from sublora.classification.wording import table as classifier_table
from sublora.report.analysis.competitors import best_competitor
from sublora.report.analysis.runs import Configuration, Run, configurations, load_runs, mean_and_error
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

ROOT = Path(__file__).resolve().parent.parent
SMOLLM2 = ("demo", "smollm2_docs", "smollm2_share")
PRETRAINED = ROOT / "results" / "adaptive_pretrained"
FRAMES = ROOT / "results" / "frames_smollm2"
SUITE, SMALL_BUDGET = ROOT / "results" / "adaptive", ROOT / "results" / "adaptive_d200"
SHORT = {
    "hoeffding_subsampling": "Hoeffding, subsampled (the reference)",
    "betting_subsampled": "betting, two stages",
    "betting_subsampled_mixture": "betting, two stages, document mixture",
    "betting_subsampled_excess": "betting, two stages, excess over the known code (the claim)",
    "hoeffding": "Hoeffding",
    "kl_inverse": "kl inverse",
    "empirical_bernstein": "empirical Bernstein",
    "betting": "betting",
    "betting_mixture": "betting, document mixture",
    "betting_excess": "betting, excess over the known code",
}


def read(name: str) -> Any:
    """Return a committed result."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_bytes())


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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


def gaps(setting: str) -> str:
    """Return the gaps of one setting, a row per bound and a column per message length."""
    rows = read("bounds")["gaps"][setting]
    names = [name for name in rows[0] if name != "bits"]
    header = ["bound", *(f"K = {row['bits']:,}" for row in rows)]
    return table(header, [[SHORT[name], *(f"{row[name]:.3f}" for row in rows)] for name in names])


def scoring() -> str:
    """Return what scoring costs, in plain forward passes."""
    rows = [
        [
            f"{row['tokens']:,}",
            f"{row['stride']:,}",
            f"{row['window_tokens']:,}",
            f"{row['multiple']:.2f}",
            f"{row['target']:.2f}",
            f"{row['reference_multiple']:.1f}",
        ]
        for row in read("scoring")["rows"]
    ]
    return table(["tokens", "new tokens per window", "tokens read", "ours", "at most", "the reference"], rows)


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
                minus(downward(prompted.bound, DIGITS)) if prompted else "no prompt",
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


def frames() -> str:
    """Return what sixty steps reach in each frame, before quantization."""
    rows = read("frames")["rows"]
    header = ["frame and rate", "flags", "held out, bits per byte"]
    first = ["before training, behind the prompt", "", f"{rows[0]['before']:.3f}"]
    return table(header, [first, *([r["name"], _code(r["flags"]), f"{r['after']:.3f}"] for r in rows)])


def _code(flags: list[str]) -> str:
    """The flags that differ from row to row."""
    return " ".join(f"`{flag}`" for flag in flags if "iter" not in flag and "interval" not in flag)


def corpus_scale() -> str:
    """Return what every stage costs on a large corpus: processor seconds and peak memory, two columns per size."""
    rows = read("scale")["rows"]
    header = ["stage"]
    for row in rows:
        header += [f"{row['tokens'] / 1e9:.1f} billion tokens: seconds", "peak memory, MB"]
    stages = [[name, *(cell for row in rows for cell in _cost(row["stages"][name]))] for name in rows[0]["stages"]]
    return table(header, stages)


def _cost(stage: dict[str, float]) -> tuple[str, str]:
    return f"{stage['cpu_seconds']:,.1f}", f"{stage['peak_mb']:,.0f}"


def gap_sizes(run: str) -> str:
    """Return the gaps of one run, ours and the reference's, a row per d and a column per n.

    Ours is bold where it is below what the known code needs, theirs a dash where it is not below uniform coding.
    """
    rows = read("gap")["runs"][run]
    header = ["d", "K, bits", *(f"n = {cell['n']:,}" for cell in rows[0]["cells"])]
    return table(header, [[f"{r['d']:,}", f"{r['bits']:,}", *map(_pair, r["cells"])] for r in rows])


def _pair(cell: dict[str, Any]) -> str:
    ours = f"**{cell['gap']:.3f}**" if cell["says_something"] else f"{cell['gap']:.3f}"
    theirs = f"{cell['reference_gap']:.2f}" if cell["reference_says_something"] else "–"
    return f"{ours} ({theirs})"


TOKEN_BOUNDS = {
    "azuma": "Azuma (Lotfi et al. 2024b)",
    "bernstein": "empirical Bernstein for martingales (Howard et al. 2021)",
    "freedman": "Freedman, its variance guessed: no bound",
    "constant_bets": "betting, constant prediction (what a certificate claims)",
    "running_bets": "betting, prediction by the mean so far",
}


def token_gaps() -> str:
    """Return the gaps of bounds for dependent tokens, a row per bound."""
    rows = read("tokens")["rows"]
    header = ["bound", *(f"K = {row['bits']:,}, M = {row['tokens']:,}" for row in rows)]
    return table(header, [[words, *(f"{r['gaps'][name]:.3f}" for r in rows)] for name, words in TOKEN_BOUNDS.items()])


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


def _spread(values: Iterable[float], digits: int = 3, sign: str = "") -> str:
    mean, error = mean_and_error(values)
    return f"{mean:{sign},.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


@dataclass(frozen=True)
class Row:
    """A run of a suite: what its table says of it. Losses are in bits per byte, which are tokens there."""

    mode: str
    d: int
    seed: int
    bits: float
    held_out: float
    certified: float


def read_suite(folder: Path) -> dict[tuple[str, int], list[Row]]:
    """Return the runs of a suite by mode and d, in the order of its table.

    The certificates themselves are of an earlier format: see results/README.md.
    """
    with (folder / "report" / "tables" / "runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    groups: dict[tuple[str, int], list[Row]] = {}
    for line in lines:
        mode, d, seed = line["mode"], int(line["d"]), int(line["seed"])
        numbers = (float(line[name]) for name in ("bits", "held_out_bpd", "certified_bpb"))
        groups.setdefault((mode, d), []).append(Row(mode, d, seed, *numbers))
    return groups


def suite(folder: Path) -> str:
    """Return a suite: mean and standard error over seeds, a row per mode and budget."""
    rows = [
        [
            mode,
            f"{d:,}",
            str(len(runs)),
            _spread((run.bits for run in runs), 0),
            _spread(run.held_out for run in runs),
            _spread(run.certified for run in runs),
        ]
        for (mode, d), runs in read_suite(folder).items()
    ]
    return table(["mode", "d", "seeds", "K, bits", "held-out BPB", "certified BPB"], rows)


def differences(folder: Path) -> str:
    """Return by how much `learned` lies below each other mode, in pairs of runs with the same budget and seed."""
    groups = read_suite(folder)
    learned = {(run.d, run.seed): run for (mode, _), runs in groups.items() if mode == "learned" for run in runs}
    rows = []
    for (mode, d), runs in groups.items():
        pairs = [(run, learned[d, run.seed]) for run in runs if (d, run.seed) in learned]
        if mode == "learned" or not pairs:
            continue
        certified = _spread((other.certified - run.certified for other, run in pairs), sign="+")
        held_out = _spread((other.held_out - run.held_out for other, run in pairs), sign="+")
        rows.append([mode, f"{d:,}", str(len(pairs)), certified, held_out])
    return table(["mode minus learned", "d", "pairs", "certified BPB", "held-out BPB"], rows)


def gains(folder: Path) -> str:
    """Return a suite on a pretrained base: what is certified, and by how much it is below the base alone."""
    rows = [
        [
            mode,
            f"{d:,}",
            str(len(runs)),
            _spread((run.bits for run in runs), 0),
            _spread(run.claim("bpb_gain_alone", "model_alone") for run in runs),
            _spread(_held_out(run) for run in runs),
            _spread(run.claim("bpb", "bound") for run in runs),
            _spread(run.claim("bpb_gain_alone", "bound") for run in runs),
        ]
        for (mode, d), runs in configurations(load_runs(folder)).items()
    ]
    header = ["mode", "d", "seeds", "K, bits", "gain, model alone", "held out", "certified", "certified gain"]
    return table(header, rows)


def _held_out(run: Run) -> float:
    """The held-out loss of a certified run, per byte where bytes are known."""
    assert run.certificate
    found = held_out_loss(run.certificate)
    return found[0] if found else math.nan


def behind(folder: Path, best: str) -> str:
    """Return by how much other modes lie above one, and gain less over the base alone, in pairs with the same seed."""
    groups = configurations(load_runs(folder))
    measures = [("bpb_gain_alone", "model_alone"), ("bpb", "bound"), ("bpb_gain_alone", "bound")]
    rows = []
    for (mode, d), runs in groups.items():
        others = {run.seed: run for run in groups.get(Configuration(best, d), [])}
        pairs = [(run, others[run.seed]) for run in runs if run.seed in others]
        if mode == best or not pairs:
            continue
        cells = [_spread((one.claim(*m) - other.claim(*m) for one, other in pairs), sign="+") for m in measures]
        rows.append([mode, f"{d:,}", str(len(pairs)), *cells])
    return table([f"mode minus {best}", "d", "pairs", "gain, model alone", "certified", "certified gain"], rows)


def afforded() -> str:
    """Return how long a message may be for a gap, per token and for 4 billion tokens."""
    rows = [
        [gap, f"{rate:.2g}", f"{rate * 4e9 / 1e6:,.1f} million"] for gap, rate in read("tokens")["afforded"].items()
    ]
    return table(["gap, bits per token", "bits of message per token", "bits for 4 billion tokens"], rows)


def feedback() -> str:
    """Return what rounding costs on a language model, a row per quantizer and step."""
    rows = []
    for size in read("feedback_model")["sizes"]:
        for name, curve in size["curves"].items():
            for at in curve:
                step, bits, loss = f"{at['step']:g} rms", f"{at['bits']:,}", f"{at['loss']:.4f}"
                rows.append([f"{size['d']:,}", name, step, bits, loss, f"{at['cpu_s']:.1f}"])
    return table(["d", "quantizer", "step", "bits", "loss, bits per byte", "processor seconds"], rows)


def training() -> str:
    """Return a training step of adapters with as many values, as multiples of PEFT's LoRA."""
    rows = [
        [
            row["subject"],
            f"{row['trained']:,}",
            f"{row['cpu_over_peft_lora']:.2f}",
            f"{row['memory_over_peft_lora']:.2f}",
        ]
        for row in read("training_gpt2_adapters")["rows"]
    ]
    return table(["adapter", "values trained", "time", "memory"], rows)


def learning_rates(folder: Path) -> str:
    """Return the held-out loss of every trial of a learning rate."""
    record = json.loads((folder / "tuning" / "learning_rates.json").read_text())
    losses = {(row["variant"], row["learning_rate"]): row["held_out_bpd"] for row in record["measured"]}
    rates = sorted({rate for _, rate in losses})
    rows = [
        [name, *(f"{losses[name, rate]:.3f}" if losses[name, rate] else "diverged" for rate in rates), f"{chosen:g}"]
        for name, chosen in record["chosen"].items()
    ]
    return table(["configuration", *(f"{rate:g}" for rate in rates), "chosen"], rows)


def quantization() -> str:
    """Return what quantization costs in two modes: mean and standard error over runs."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in read("quantization_modes")["rows"]:
        groups.setdefault((row["quantizer"], row["mode"]), []).append(row)
    rows = []
    for (quantizer, mode), group in sorted(groups.items()):
        bits, _ = mean_and_error(row["bits"] for row in group)
        rows.append([quantizer, mode, f"{bits:,.0f}", _spread((row["increase"] for row in group), 4)])
    return table(["quantizer", "mode", "K, bits", "increase, bits per byte"], rows)


def delays() -> str:
    """Return how many documents a watch reads until its alarm."""
    result = read("watch")
    drifts = list(result["rows"][0]["delays"])
    rows = []
    for row in result["rows"]:
        found = [
            " ".join((f"{median:,}", f"({most:,})" if most is not None else "(more)"))
            for median, most in row["delays"].values()
        ]
        rows.append([f"{row['before']:,}", f"{row['gap']:g}" if row["before"] else "", *found])
    share = result["false_alarms"]
    said = (
        f"With the mean exactly at the bound, {100 * share['share']:.1f} % of {share['watches']:,} watches raise an "
        f"alarm within {share['documents']:,} documents."
    )
    return f"{table(['documents before', 'gap', *(f'drift {d}' for d in drifts)], rows)}\n\n{said}"


def peers() -> str:
    """Return adapters of a few hundred values, PEFT's and ours, in bits per byte."""
    result = read("peers")
    base = min(row["base_with_fallback"] for row in result["rows"])
    rows = [
        [
            "the base, falling back on the n-gram",
            "",
            "",
            "",
            "",
            f"{result['base_held_out']:.3f}",
            "",
            at_most(base),
            "",
        ]
    ]
    for row in result["rows"]:
        rows.append(
            [
                row["method"],
                f"{row['trained']:,}",
                f"{row['rate']:g}",
                row["message"] if row["message"] != "import" else f"import, {row['coded']:,} values",
                f"{row['bits']:,}",
                f"{row['held_out_trained']:.3f}",
                f"{row['held_out_decoded']:.3f}",
                at_most(row["bound"]),
                minus(downward(row["gain_alone"], DIGITS)),
            ]
        )
    header = [
        "adapter",
        "trained values",
        "rate",
        "message",
        "K, bits",
        "held-out, trained",
        "held-out, decoded",
        "certified at most",
        "below the base alone, at least",
    ]
    return table(header, rows)


PAGES = {
    "README.md": {"demo": lambda: headline("demo")},
    "docs/tutorial.md": {"demo": lambda: certificate("demo")},
    "docs/bounds.md": {
        "demo": lambda: codes("demo"),
        "scratch": scratch,
        "gaps: drawn": lambda: gaps("drawn"),
        "gaps: all": lambda: gaps("all"),
        "gaps: demo": lambda: gaps("demo"),
        "scoring": scoring,
    },
    "docs/scale.md": {
        "corpus": corpus_scale,
        "gap: smollm2_docs": lambda: gap_sizes("smollm2_docs"),
        "gap: demo_scratch": lambda: gap_sizes("demo_scratch"),
        "tokens": token_gaps,
        "afforded": afforded,
        "feedback": feedback,
        "training": training,
    },
    "docs/watch.md": {"watch": delays},
    "docs/import.md": {"peers": peers},
    "docs/prior.md": {"bases": bases},
    "docs/smollm2.md": {"runs": lambda: runs(SMOLLM2), "frames": frames},
    "docs/classification.md": {
        "classification": lambda: classifier_table(read_classifier_certificate(ROOT / "results" / "classification"))
    },
    "docs/certificate.md": {"certificate": lambda: annotated("demo")},
    "docs/allocation.md": {
        "pretrained": lambda: gains(PRETRAINED),
        "pretrained: differences": lambda: behind(PRETRAINED, "practised"),
        "frames": lambda: gains(FRAMES),
        "frames: differences": lambda: behind(FRAMES, "practised"),
        "pretrained: learning rates": lambda: learning_rates(PRETRAINED),
        "suite": lambda: suite(SUITE),
        "differences": lambda: differences(SUITE),
        "suite: d = 200": lambda: suite(SMALL_BUDGET),
        "differences: d = 200": lambda: differences(SMALL_BUDGET),
        "learning rates": lambda: learning_rates(SUITE),
        "learning rates: d = 200": lambda: learning_rates(SMALL_BUDGET),
        "quantization": quantization,
    },
}


def render(name: str) -> str:
    """Return a page with its tables made anew."""
    page = (ROOT / name).read_text()
    for table_name, make in PAGES[name].items():
        start = f"<!-- {table_name} -->"
        pattern = re.compile(f"{re.escape(start)}.*?<!-- end -->", re.DOTALL)
        page, found = pattern.subn(f"{start}\n{make()}\n<!-- end -->", page)
        assert found == 1, table_name
    return page


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(render(page))
