# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Your own losses
#
# A bound needs losses and an upper limit for them. Here is what each number in it costs.

# %%
import numpy as np

import sublora

rng = np.random.default_rng(0)
losses = rng.normal(3.9, 0.3, 20_000).clip(0, 8)

# %% [markdown]
# A model that was fixed before: no bit is paid for.

# %%
fixed = sublora.bound(losses, upper=8.0)
print(f"measured {losses.mean():.3f}, at most {fixed:.3f} at 95 %")

# %% [markdown]
# A model that was chosen on these very losses, and that a message of K bits describes: K ln 2 nats are paid for.

# %%
found = {bits: sublora.bound(losses, upper=8.0, bits=bits) for bits in (0, 300, 3_000, 30_000)}
for bits, bound in found.items():
    print(f"{bits:6,} bits: at most {bound:.3f}")
assert sorted(found.values()) == list(found.values()) and found[0] == fixed

# %% [markdown]
# Ten times the documents, and the same message costs less.

# %%
few = sublora.bound(losses[:2_000], upper=8.0, bits=3_000)
print(f"2,000 documents: {few:.3f}; 20,000: {found[3_000]:.3f}")
assert few > found[3_000]

# %% [markdown]
# A limit far above the losses is dear, because unseen documents might cost that much.

# %%
dear = sublora.bound(losses, upper=80.0, bits=3_000)
print(f"upper limit 8: {found[3_000]:.3f}; 80: {dear:.3f}")
assert dear > found[3_000]
