"""Uniform random words from a cipher: the only source of noise and of secret sampling.

A root key of 256 bits comes from the operating system once per process and is never written
anywhere; every stream has its own key, derived from the root and a label, so no two purposes
share bytes, and a stream is handed out once. A process that starts again draws a new root, which
is why an interrupted run cannot use the same randomness twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Entropy = Callable[[int], bytes]
"""A source of `n` unpredictable bytes; `os.urandom` outside tests."""

KEY_BYTES = 32
_WORD_BYTES = 8
_CHUNK_BYTES = 1 << 17


class StreamReused(RuntimeError):
    """A stream was asked for a second time; handing it out would repeat noise.

    Attributes:
        label: what the stream was for, without any key material.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        super().__init__(
            f"the random stream {label!r} was already used; its noise would cancel in a "
            "difference. Start a new round instead of repeating this one."
        )


class Keystream:
    """AES-256-CTR keystream read as little-endian 64-bit words.

    Guarantee: words are computationally indistinguishable from uniform as long as the caller
    keeps `key` secret and builds one Keystream per key.
    """

    __slots__ = ("_encryptor",)

    def __init__(self, key: bytes) -> None:
        """Start the stream of `key` (32 bytes, secret, used for this stream only).

        Raises:
            ValueError: the key is not 32 bytes long.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"a keystream key has {KEY_BYTES} bytes, not {len(key)}")
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def __repr__(self) -> str:
        return "Keystream(<secret>)"

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the next `count` words, shape [count], dtype uint64, uniform on [0, 2^64).

        Args:
            count: how many words, >= 0.
        """
        size_bytes = count * _WORD_BYTES
        out = bytearray(size_bytes + 15)
        view = memoryview(out)
        zeros = bytes(min(size_bytes, _CHUNK_BYTES))
        for start in range(0, size_bytes, _CHUNK_BYTES):
            length = min(_CHUNK_BYTES, size_bytes - start)
            self._encryptor.update_into(zeros[:length], view[start : start + length + 15])
        return np.frombuffer(out, dtype="<u8", count=count).astype(np.uint64, copy=False)


class StreamIssuer:
    """Hands out named keystreams of one party, each name once.

    Args:
        entropy: source of the root key, called once; `os.urandom` outside tests.

    Guarantee: two different labels give independent streams (HKDF-SHA256, Krawczyk 2010); the
    same label twice raises `StreamReused`. The caller puts run, round and purpose in the label.
    """

    __slots__ = ("_issued", "_root")

    def __init__(self, entropy: Entropy) -> None:
        self._root = entropy(KEY_BYTES)
        if len(self._root) != KEY_BYTES:
            raise ValueError(f"the entropy source must give {KEY_BYTES} bytes")
        self._issued: set[str] = set()

    def __repr__(self) -> str:
        return f"StreamIssuer(<secret>, issued={len(self._issued)})"

    def issue(self, label: str) -> Keystream:
        """Return the stream for `label`.

        Raises:
            StreamReused: the label was issued before by this object.
        """
        if label in self._issued:
            raise StreamReused(label)
        self._issued.add(label)
        info = b"privfed-dpo/v1/keystream/" + label.encode()
        derived = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info)
        return Keystream(derived.derive(self._root))
