"""Writing token files that a killed process can go on with."""

import hashlib
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from sublora.corpus.digest import hash_documents
from sublora.corpus.index import index_path, write_documents
from sublora.corpus.token_type import NARROW
from sublora.files import sync


class SplitWriter:
    """One token file, and beside it the rows (start, length, bytes) of its index.

    Args:
        path: the token file.
        eot_token: the token that follows every document.
        token: the type of the tokens.
        tokens, documents: how much of existing files is to be kept; the rest was written after the last `save`.
    """

    def __init__(
        self, path: Path, eot_token: int, token: np.dtype = NARROW, *, tokens: int = 0, documents: int = 0
    ) -> None:
        self.path, self.eot_token, self.token, self.position = path, eot_token, token, tokens
        self.digest = hashlib.sha256()
        self.rows = array("q")
        self._saved = documents
        self._file, self._rows_file = path.open("ab"), path.with_suffix(".rows").open("ab")
        self._file.truncate(tokens * token.itemsize)
        self._rows_file.truncate(documents * 3 * self.rows.itemsize)
        if documents:
            # The state of a hash cannot be stored: what is kept is read again.
            with path.open("rb") as kept:
                self.digest = hashlib.file_digest(kept, "sha256")
            self.rows.frombytes(path.with_suffix(".rows").read_bytes())

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._rows_file.close()

    def add(self, tokens: np.ndarray, n_bytes: int) -> None:
        """Append a document of so many bytes, and the end-of-text token."""
        data = np.append(tokens, self.eot_token).astype(self.token).tobytes()
        self._file.write(data)
        self.digest.update(data)
        self.rows.extend((self.position, len(tokens), n_bytes))
        self.position += len(tokens) + 1

    def save(self) -> dict[str, int]:
        """Bring everything to the disk; return the arguments `tokens` and `documents` that go on from here."""
        self._rows_file.write(self.rows[3 * self._saved :].tobytes())
        self._saved = len(self.rows) // 3
        for file in (self._file, self._rows_file):
            sync(file)
        return {"tokens": self.position, "documents": self._saved}

    def finish(self) -> dict[str, Any] | None:
        """Write the index, and return what meta.json says about the split; None when it has no document."""
        self._file.flush()
        if not self.rows:
            return None
        documents = np.frombuffer(self.rows, np.int64).reshape(-1, 3)
        write_documents(index_path(self.path), documents)
        return {
            "documents": len(documents),
            "tokens": int(documents[:, 1].sum()),
            "bytes": int(documents[:, 2].sum()),
            "sha256": self.digest.hexdigest(),
            "content_sha256": hash_documents(np.memmap(self.path, self.token, mode="r"), documents),
        }
