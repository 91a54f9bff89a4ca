"""How a client joins a run: the coordinator offers it, the client checks it and signs."""

from __future__ import annotations

import hashlib

import msgspec

from privfed_dpo.config import Config, parse_config
from privfed_dpo.engine.messages import MalformedEnvelope, Message, decode
from privfed_dpo.errors import ConfigError
from secure_agg import AuthenticationFailed, IdentityKey, verify_signature

DOCUMENT_VERSION = 1
MAX_DOCUMENT_BYTES = 1 << 20
RUN_ID_BYTES = 16
NONCE_BYTES = 32
_OFFER_TAG = 21
_AT_CLIENTS = "at-the-clients"
"""In place of the data's path, which every client knows for itself."""
_OFFERED, _JOINED = b"privfed-dpo offer 1:", b"privfed-dpo joined 1:"


class RunDocument(Message, frozen=True, tag=20):
    """A run as its coordinator describes it; from it each client makes its own plan.

    Attributes:
        version: of this format; another one is refused.
        run_id: 16 random bytes that name the run.
        config: the public part of the configuration, as JSON.
        roster: digest of the roster, hex.
        model_fingerprint: hash over base model and tokenizer.
        plan_hash: what the plan made from all this must hash to.
    """

    version: int
    run_id: bytes
    config: str
    roster: str
    model_fingerprint: str
    plan_hash: str

    def settings(self) -> Config:
        """Read the configuration.

        Raises:
            ConfigError: it is not one this version knows.
        """
        try:
            msgspec.json.decode(self.config)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigError((f"the run's configuration is no JSON: {error}",)) from error
        return parse_config(self.config, source="the run's configuration")


class Offer(Message, frozen=True, tag=_OFFER_TAG):
    """Coordinator to client.

    Attributes:
        document: an encoded RunDocument.
        signature: the coordinator's, on the document.
        nonce: 32 random bytes, new for each offer.
    """

    document: bytes
    signature: bytes
    nonce: bytes


class Joined(Message, frozen=True, tag=22):
    """Client to coordinator.

    Attributes:
        name: on the roster.
        signature: the client's, on document and nonce.
    """

    name: str
    signature: bytes


def is_offer(data: bytes) -> bool:
    """Whether a client's message claims to be an offer rather than part of a round."""
    return data[1:2] == bytes([_OFFER_TAG])


def public_settings(config: Config) -> str:
    """Return what of a configuration concerns everybody, as JSON: no paths and no machine."""
    plain = Config()
    shared = config.model_copy(
        update={
            "run": plain.run.model_copy(update={"seed": config.run.seed}),
            "data": config.data.model_copy(
                update={"train": _AT_CLIENTS, "eval": None, "columns": plain.data.columns}
            ),
            "model": config.model.model_copy(update={"device": plain.model.device}),
            "deployment": plain.deployment,
        }
    )
    return msgspec.json.encode(shared.model_dump(mode="json")).decode()


def read_document(encoded: bytes) -> RunDocument:
    """Read a run's description strictly.

    Raises:
        MalformedEnvelope: not a canonical document of this version.
    """
    if len(encoded) > MAX_DOCUMENT_BYTES:
        raise MalformedEnvelope(f"a run's description may have {MAX_DOCUMENT_BYTES} bytes")
    document = decode(encoded, RunDocument)
    if document.version != DOCUMENT_VERSION or len(document.run_id) != RUN_ID_BYTES:
        raise MalformedEnvelope(
            f"a run's description of version {document.version}, this side speaks "
            f"{DOCUMENT_VERSION}"
        )
    return document


def sign_offer(document: bytes, coordinator: IdentityKey, nonce: bytes) -> Offer:
    """Make an offer to one or many clients."""
    return Offer(document, coordinator.sign(_OFFERED + hashlib.sha256(document).digest()), nonce)


def offered_by(offer: Offer, coordinator: bytes) -> bool:
    """Whether the owner of this key made the offer."""
    return _signed(coordinator, _OFFERED + hashlib.sha256(offer.document).digest(), offer.signature)


def sign_joined(offer: Offer, name: str, identity: IdentityKey) -> Joined:
    """Answer an offer."""
    return Joined(name, identity.sign(_joined_message(offer)))


def joined_by(joined: Joined, offer: Offer, key: bytes) -> bool:
    """Whether the owner of this key joined on this very offer."""
    return _signed(key, _joined_message(offer), joined.signature)


def _joined_message(offer: Offer) -> bytes:
    return _JOINED + offer.nonce + hashlib.sha256(offer.document).digest()


def _signed(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        verify_signature(key, message, signature)
    except (AuthenticationFailed, ValueError):
        return False
    return True
