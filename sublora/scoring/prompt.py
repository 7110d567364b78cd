"""The tokens of a prompt: documents that stand before every document."""

import numpy as np
from jaxtyping import Int64

from sublora.coding.prompt import Prompt
from sublora.corpus.corpus import Split
from sublora.errors import MessageError


def prompt_tokens(prompt: Prompt, known: Split | None, eot_token: int) -> Int64[np.ndarray, " p"]:
    """Return the tokens of a prompt: each document after an end-of-text token.

    Raises:
        MessageError: a document that the known documents do not have.
    """
    if prompt == Prompt():
        return np.zeros(0, np.int64)
    if prompt.documents and (known is None or max(prompt.documents) >= len(known)):
        raise MessageError("the prompt names documents that the corpus does not have: give the corpus it was made with")
    named = [] if known is None else [known.document(i) for i in prompt.documents]
    written = [np.array(text, np.int64) for text in prompt.texts]
    return np.concatenate([np.append(eot_token, document) for document in (*named, *written)]).astype(np.int64)
