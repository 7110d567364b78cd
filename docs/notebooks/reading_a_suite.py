# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Reading a suite
#
# `results/adaptive_pretrained` holds certified runs: ways to place and to divide coordinates, three budgets, several
# seeds. `sublora report results/adaptive_pretrained --out DIR` makes its page from them. It runs in a checkout.

# %%
from pathlib import Path

from sublora.report.analysis.runs import configurations, load_runs, mean_and_error
from sublora.report.analysis.suite import analyse

runs = load_runs(Path("results/adaptive_pretrained"))
suite = analyse(runs)
print(len(suite.certified), "certified runs")

# %% [markdown]
# Runs of one configuration differ in their seed. A mean of bounds is no bound: every certificate is about its own
# message.

# %%
for (mode, d), group in configurations(runs).items():
    mean, error = mean_and_error(run.claim("bpb", "bound") for run in group)
    print(f"{mode:10} d = {d:5,}: certified bits per byte {mean:.3f} ± {error:.3f} over {len(group)} seeds")

# %% [markdown]
# The smallest of many bounds was chosen for being small. It may be quoted only with delta divided by their number.

# %%
print(getattr(suite.best, "sentence", suite.best))

# %% [markdown]
# Questions are answered by paired tests, adjusted for their number. "No evidence" is not evidence of no effect.

# %%
answers = {answer.question: answer.answer for answer in suite.answers}
for question, answer in answers.items():
    print(f"{question} {answer}")
assert answers["Does it help to practise?"].startswith("Yes")
