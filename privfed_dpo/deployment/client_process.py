"""`privfed-dpo client`: the long-lived process that holds a client's data, keys and budget."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from privfed_dpo.config.client_policy import ClientPolicy
from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.data.preferences import load_preferences
from privfed_dpo.deployment.identity import enrol_identity, load_identity
from privfed_dpo.deployment.journal import Journal
from privfed_dpo.deployment.member import Member
from privfed_dpo.deployment.own_ledgers import BooksUnwritable
from privfed_dpo.deployment.roster import load_roster
from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.messages import MalformedEnvelope
from privfed_dpo.errors import ConfigError
from privfed_dpo.exclusive import FileLock
from privfed_dpo.mechanism.keystream import Entropy
from privfed_dpo.wire.client_socket import Declined, answer_one
from privfed_dpo.wire.frames import LocalSocketError, listen
from secure_agg import SecAggError

KEY_FILE = "identity.key"
_LOCK_FILE = "lock"


def enrol_client(policy: ClientPolicy, entropy: Entropy = secrets.token_bytes) -> dict[str, object]:
    """Make the client's key if it has none; return its line of the roster, which is public."""
    identity = enrol_identity(Path(policy.state) / KEY_FILE, entropy)
    return {"pairs": len(_pairs(policy)), "key": identity.public.hex()}


def serve_client(
    policy: ClientPolicy,
    *,
    journal: Journal,
    entropy: Entropy = secrets.token_bytes,
    go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Answer the coordinator's messages until told to stop.

    Args:
        policy: what this client allows.
        journal: told what happens.
        entropy: source of everything secret; the operating system's outside tests.
        go_on: asked before each message.

    Raises:
        ConfigError, DataError: policy, roster, key and data do not fit each other, or another
            process serves this client already.
        BooksUnwritable: its own ledger cannot be written; what it costs was not answered.
    """
    with _alone(Path(policy.state)):
        member = Member(
            policy,
            roster=load_roster(Path(policy.roster)),
            identity=load_identity(Path(policy.state) / KEY_FILE),
            pairs=_pairs(policy),
            entropy=entropy,
            journal=journal,
        )
        path = Path(policy.socket)
        try:
            listener = listen(path, group=_group(policy.socket_group))
        except LocalSocketError as error:
            raise ConfigError((str(error),), advice="Set socket in the policy.") from error
        with contextlib.closing(listener):
            journal("listening", socket=str(path), client=policy.name)
            try:
                while go_on():
                    refused = answer_one(
                        listener,
                        _declining(member.handle, journal),
                        max_bytes=policy.max_message_bytes,
                    )
                    if refused:
                        journal("refused", reason=refused)
            finally:
                path.unlink(missing_ok=True)


def _declining(handle: Callable[[bytes], bytes], journal: Journal) -> Callable[[bytes], bytes]:
    """Turn errors into refusals; of those that may speak of data the server learns nothing."""

    def answer(data: bytes) -> bytes:
        try:
            return handle(data)
        except BooksUnwritable:
            raise
        except (ClientRefused, SecAggError, MalformedEnvelope) as error:
            raise Declined(str(error)) from error
        except Exception as error:
            journal("failed", kind=type(error).__name__, detail=str(error))
            raise Declined("the client cannot; its own log says why") from error

    return answer


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    lock = FileLock(state / _LOCK_FILE)
    if not lock.try_acquire():
        raise ConfigError((f"another process keeps the books in {state}",))
    try:
        yield
    finally:
        lock.release()


def _pairs(policy: ClientPolicy) -> tuple[PreferencePair, ...]:
    return load_preferences(policy.data, split=policy.split, columns=policy.columns.model_dump())


def _group(name: str | None) -> int | None:
    if name is None:
        return None
    import grp  # noqa: PLC0415 - not on every system

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise ConfigError((f"socket_group: no group {name!r} on this machine",)) from error
