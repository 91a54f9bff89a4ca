"""Flower's SecAgg+ functions as a yardstick, where `flwr` is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

import numpy as np
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
        """Quantize, mask against everyone, reduce: what its client does to one update."""
        private = ec.generate_private_key(ec.SECP384R1())
        public = ec.generate_private_key(ec.SECP384R1()).public_key()
        vector = self._quantization.quantize([values.astype(np.float64)], 3.0, _LEVELS)
        shape = [values.shape]
        own = self._masks.pseudo_rand_gen(b"0123456789abcdef" * 2, _MODULUS, shape)
        vector = self._arithmetic.parameters_addition(vector, own)
        for _ in range(neighbours):
            key = self._keys.generate_shared_key(private, public)
            mask = self._masks.pseudo_rand_gen(key, _MODULUS, shape)
            vector = self._arithmetic.parameters_addition(vector, mask)
        return self._arithmetic.parameters_mod(vector, _MODULUS)[0].tobytes()

    def restore(self, secret_bytes: int, threshold: int, holders: int) -> None:
        """Restore one shared secret; the cost of sharing it first is not hidden from the caller."""
        if self._shamir is None:
            raise RuntimeError("the peer's secret sharing is not installed")
        shares = _shares(self._shamir, secret_bytes, threshold, holders)
        self._shamir.combine_shares(shares[:threshold])


def load_peer() -> Peer | None:
    """The peer, or None where it is not installed."""
    if _import_or_none("flwr") is None:
        return None
    try:
        version = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        version = "(source tree)"
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
