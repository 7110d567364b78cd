"""What a decoded model says of labels: the logits of the classes behind text and cue."""

import numpy as np
import torch
from jaxtyping import Float32, Int

from sublora.coding.verbalizer import Verbalizer
from sublora.corpus.corpus import Split
from sublora.errors import CertificateError
from sublora.nn.packed import PrefixReader, check_context, packed_attention
from sublora.progress import progress
from sublora.scoring.measure import Rebuilt
from sublora.scoring.processes import Processes


def label_logits(
    rebuilt: Rebuilt,
    split: Split,
    rows: Int[np.ndarray, " m"],
    verbalizer: Verbalizer,
    batch_size: int,
    processes: Processes,
    description: str,
) -> Float32[np.ndarray, "m classes"]:
    """Return the logits of the classes for documents that may repeat; each distinct one is read once.

    Args:
        rebuilt: the decoded model, and its prompt.
        split: labelled documents; their labels are not read.
        rows: which of them.
        verbalizer: the classes.
        batch_size: documents that are read at once.
        processes: that share the work; all return the same.
        description: shown beside the progress.

    Raises:
        ConfigError: prompt and document are longer than the model's context.
        CertificateError: a logit is not a number.
    """
    distinct, back = np.unique(rows, return_inverse=True)
    order = np.argsort(-split.lengths[distinct], kind="stable")
    # Neighbours in length are read together, and processes have as much to read as each other.
    mine = order[processes.index :: processes.count]
    out = np.zeros((len(distinct), len(verbalizer.labels)), np.float32)
    model = rebuilt.model.to(processes.device).eval()  # type: ignore[arg-type]
    check_context(model, len(rebuilt.prompt), int(split.lengths[distinct].max()))
    head, device = model.get_output_embeddings(), processes.device
    columns = torch.tensor(verbalizer.labels, device=device)
    prefix = torch.from_numpy(np.append(rebuilt.prompt, np.int64(split.eot_token))).to(device)
    with packed_attention(model), torch.inference_mode(), progress(description, len(mine)) as advance:
        reader = PrefixReader(model, prefix)
        for start in range(0, len(mine), batch_size):
            few = mine[start : start + batch_size]
            texts = [split.document(int(i))[:-1].astype(np.int64) for i in distinct[few]]
            lengths = [len(text) for text in texts]
            hidden = reader.read(torch.from_numpy(np.concatenate(texts)).to(device), lengths)
            last = torch.from_numpy(np.cumsum(lengths) - 1).to(device)
            out[few] = head(hidden[last])[:, columns].float().cpu().numpy()
            advance(len(few))
    out = processes.sum(out)
    if not np.isfinite(out).all():
        raise CertificateError("the decoded model gives some label no finite probability: there is nothing to certify")
    return out[back]
