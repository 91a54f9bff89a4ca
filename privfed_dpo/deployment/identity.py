"""A party's long-lived signing key, in a file that never leaves its machine."""

from __future__ import annotations

from pathlib import Path

from privfed_dpo.durable import make_folder, write_new_secret
from privfed_dpo.errors import ConfigError
from privfed_dpo.mechanism.keystream import Entropy
from secure_agg import IdentityKey

KEY_BYTES = 32
_OTHERS = 0o077


def enrol_identity(path: Path, entropy: Entropy) -> IdentityKey:
    """Load the key, or make it where there is none yet.

    Raises:
        ConfigError: see `load_identity`.
    """
    if path.exists():
        return load_identity(path)
    identity = IdentityKey.generate(entropy)
    make_folder(path.parent)
    write_new_secret(path, identity.private_bytes())
    return identity


def load_identity(path: Path) -> IdentityKey:
    """Read a key.

    Raises:
        ConfigError: there is none, it is damaged, or others on this machine may read it.
    """
    try:
        content, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        raise ConfigError(
            (f"no signing key at {path}: {error.strerror}",),
            advice="Make one with privfed-dpo enrol, and have it entered in the roster.",
        ) from error
    if mode & _OTHERS:
        raise ConfigError(
            (f"{path} can be read by others",), advice=f"chmod 600 {path}, and consider a new key."
        )
    if len(content) != KEY_BYTES:
        raise ConfigError((f"{path} holds {len(content)} bytes, a key has {KEY_BYTES}",))
    return IdentityKey.from_private_bytes(content)
