"""The secret behind flipped labels: drawn once per run, so that no label is ever flipped anew.

Randomised response is spent once per label only if its outcome stays the same over rounds and
after every interruption. So the flips follow from one secret key, which is on disk before anything
is released. In a deployment every client keeps its own; a simulated run holds one for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from privfed_dpo.durable import write_new_secret
from privfed_dpo.errors import ResumeMismatch
from privfed_dpo.mechanism.keystream import KEY_BYTES, Entropy, StreamIssuer

LABELS_FILE = "labels.secret"
"""Within the checkpoint folder. Removed at the end of a run, unless the run is to be audited."""


@dataclass(frozen=True, slots=True)
class LabelSecret:
    """Where flips come from. Secret: with it and the flipped labels one has the true ones.

    Attributes:
        key: 32 bytes.
    """

    key: bytes = field(repr=False)

    @classmethod
    def draw(cls, entropy: Entropy) -> LabelSecret:
        """Make a fresh key."""
        return cls(entropy(KEY_BYTES))

    def save(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read, and sync it."""
        write_new_secret(path, self.key)

    @classmethod
    def load(cls, path: Path) -> LabelSecret:
        """Read the key of an interrupted run.

        Raises:
            ResumeMismatch: it is not there. A new key would flip labels a second time, and each
                second flip costs the label's epsilon again.
        """
        content = path.read_bytes() if path.is_file() else b""
        if len(content) != KEY_BYTES:
            raise ResumeMismatch(
                "the label secret", expected=f"{path}, {KEY_BYTES} bytes", found=f"{len(content)}"
            )
        return cls(content)

    def words(self, client: str, count: int, *, purpose: str) -> npt.NDArray[np.uint64]:
        """One uniform word for each of a client's pairs, the same at every call.

        Args:
            client: whose pairs.
            count: how many; their order is part of the secret's meaning and must not change.
            purpose: what the pairs are for; other purposes get other words.

        Returns:
            uint64 [count].
        """
        issuer = StreamIssuer(lambda _size: self.key)
        return issuer.issue(f"labels/{purpose}/{client}").words(count)
