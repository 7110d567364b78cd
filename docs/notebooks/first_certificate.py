# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # A first certificate
#
# A small model, a few hundred documents, a message of some dozen bytes, and what they prove together. It takes seconds.

# %%
import tempfile
from pathlib import Path

import torch
import transformers

import sublora

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# The base stands for a model that you have: any causal language model of transformers, older than your text.

# %%
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
config = transformers.LlamaConfig(vocab_size=257, max_position_embeddings=64, **sizes)
transformers.LlamaForCausalLM(config).save_pretrained(folder / "base")

# %% [markdown]
# The documents. A seed divides them: most are certified, the others choose checkpoints or are held out.

# %%
texts = [f"Paragraph {i} says that {i} and {i} are {2 * i}." for i in range(300)]
data = sublora.prepare(texts, to=folder / "data")

# %% [markdown]
# 50 numbers are trained, in a loop of your own.

# %%
base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
model = sublora.wrap(base, d=50, seed=42)
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
for text in texts[:40]:
    tokens = torch.tensor([list(text.encode())])
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()

# %% [markdown]
# The message holds everything that was chosen. The certificate is about the model that is decoded from it.

# %%
message = sublora.compress(model, data, samples=100)
certificate = sublora.certify(message, documents=data, base=folder / "base", to=folder / "run")
print(len(message), "bytes")
print(certificate.statement)

# %% [markdown]
# So short a text and so small a model prove little, and the certificate says so. What it claims is true all the same:
# whoever has the documents and the base gets the same numbers from the bytes.

# %%
verified = sublora.verify(folder / "run", documents=data, base=folder / "base")
assert certificate.statement in verified.in_words()
assert certificate.message.bits == 8 * len(message)
