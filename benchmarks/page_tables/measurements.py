"""Tables of what the other benchmarks measured."""

from typing import Any

from page_tables.markdown import read, spread, table
from sublora.certificate.rounding import downward
from sublora.certificate.wording import DIGITS
from sublora.report.analysis.runs import mean_and_error
from sublora.report.analysis.tables import at_most, minus

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


def few_gradients() -> str:
    """Return how much more feedback loses from few gradients than from as many as coordinates, a row per number."""
    rows = read("feedback_model")["few"]["rows"]
    steps = list(dict.fromkeys(row["step"] for row in rows))
    cells = {(row["gradients"], row["step"]): f"{row['more']:.4f} ± {row['standard_error']:.4f}" for row in rows}
    return table(
        ["gradients", *(f"step {step:g} rms" for step in steps)],
        [
            [f"{gradients:,}", *(cells[gradients, step] for step in steps)]
            for gradients in dict.fromkeys(row["gradients"] for row in rows)
        ],
    )


def training(model: str) -> str:
    """Return a training step of adapters of a model with as many values, as multiples of PEFT's LoRA."""
    rows = [
        [
            row["subject"],
            f"{row['trained']:,}",
            f"{row['cpu_over_peft_lora']:.2f}",
            f"{row['memory_over_peft_lora']:.2f}",
        ]
        for row in read(f"training_{model}_adapters")["rows"]
    ]
    return table(["adapter", "values trained", "time", "memory"], rows)


def quantization() -> str:
    """Return what quantization costs in two modes: mean and standard error over runs."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in read("quantization_modes")["rows"]:
        groups.setdefault((row["quantizer"], row["mode"]), []).append(row)
    rows = []
    for (quantizer, mode), group in sorted(groups.items()):
        bits, _ = mean_and_error(row["bits"] for row in group)
        rows.append([quantizer, mode, f"{bits:,.0f}", spread((row["increase"] for row in group), 4)])
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


def peers(name: str) -> str:
    """Return adapters of a few hundred values, PEFT's and ours, in bits per byte."""
    result = read(name)
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
