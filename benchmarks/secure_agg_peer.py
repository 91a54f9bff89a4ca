"""Flower's SecAgg+ functions as a yardstick, where `flwr` is installed."""

from __future__ import annotations

import base64
import importlib
import importlib.metadata
import io
from types import ModuleType

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

_PACKAGE = "flwr.common.secure_aggregation"
_MODULUS = 1 << 32
_LEVELS = 1 << 22


class Peer:
    """The peer's own functions, called the way its client and server call them."""

    def __init__(self, version: str) -> None:
        self.name = f"Flower {version}"
        self._masks = importlib.import_module(f"{_PACKAGE}.secaggplus_utils")
        self._arithmetic = importlib.import_module(f"{_PACKAGE}.ndarrays_arithmetic")
        self._quantization = importlib.import_module(f"{_PACKAGE}.quantization")
        self._keys = importlib.import_module(f"{_PACKAGE}.crypto.symmetric_encryption")
        self._shamir = _import_or_none(f"{_PACKAGE}.crypto.shamir")
        self._accumulators: dict[int, list[np.ndarray]] = {}

    @property
    def has_shamir(self) -> bool:
        """Its secret sharing needs pycryptodome."""
        return self._shamir is not None

    def one_mask(self, dimension: int) -> None:
        """Make one mask and add it, as for one neighbour."""
        total = self._accumulators.setdefault(dimension, [np.zeros(dimension, np.int64)])
        mask = self._masks.pseudo_rand_gen(b"0123456789abcdef" * 2, _MODULUS, [(dimension,)])
        self._accumulators[dimension] = self._arithmetic.parameters_addition(total, mask)

    def client_step(self, values: np.ndarray, neighbours: int) -> bytes:
        """What its client does to one update: weigh, quantize, open shares, mask, reduce, pack.

        Keys are kept and passed as PEM text, shares as Fernet tokens, as in its client.
        """
        private, public = _pem_pair()
        fernet_key = base64.urlsafe_b64encode(bytes(32))
        token = self._keys.encrypt(fernet_key, bytes(400))
        vector = self._arithmetic.parameters_multiply([values], 1.0)
        vector = self._quantization.quantize(vector, 3.0, _LEVELS)
        shape = [values.shape]
        own = self._masks.pseudo_rand_gen(b"0123456789abcdef" * 2, _MODULUS, shape)
        vector = self._arithmetic.parameters_addition(vector, own)
        for _ in range(neighbours):
            self._keys.decrypt(fernet_key, token)
            key = self._keys.generate_shared_key(
                serialization.load_pem_private_key(private, password=None),
                serialization.load_pem_public_key(public),
            )
            mask = self._masks.pseudo_rand_gen(key, _MODULUS, shape)
            vector = self._arithmetic.parameters_addition(vector, mask)
        reduced = self._arithmetic.parameters_mod(vector, _MODULUS)[0]
        packed = io.BytesIO()
        np.save(packed, reduced, allow_pickle=False)
        return packed.getvalue()

    def restore(self, secret_bytes: int, threshold: int, holders: int) -> None:
        """Restore one shared secret; the cost of sharing it first is not hidden from the caller."""
        if self._shamir is None:
            raise RuntimeError("the peer's secret sharing is not installed")
        shares = _shares(self._shamir, secret_bytes, threshold, holders)
        self._shamir.combine_shares(shares[:threshold])


def _pem_pair() -> tuple[bytes, bytes]:
    mine, other = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    private = mine.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = other.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


def load_peer() -> Peer | None:
    """The peer, or None where it is not installed."""
    package = _import_or_none("flwr")
    if package is None:
        return None
    try:
        version = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        version = getattr(package, "__version__", "of unknown version")
    return Peer(version)


_SHARED: dict[tuple[int, int, int], list[bytes]] = {}


def _shares(shamir: ModuleType, secret_bytes: int, threshold: int, holders: int) -> list[bytes]:
    key = (secret_bytes, threshold, holders)
    if key not in _SHARED:
        _SHARED[key] = shamir.create_shares(bytes(secret_bytes), threshold, holders)
    return _SHARED[key]


def _import_or_none(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
