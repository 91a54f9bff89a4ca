"""Rosters, policies, offers: public facts that parties agree on, each with its own eyes."""

import os

import pytest
import yaml

from privfed_dpo.config import parse_config
from privfed_dpo.config.client_policy import load_policy
from privfed_dpo.deployment.identity import enrol_identity, load_identity
from privfed_dpo.deployment.joining import (
    DOCUMENT_VERSION,
    Joined,
    Offer,
    RunDocument,
    is_offer,
    joined_by,
    offered_by,
    public_settings,
    read_document,
    sign_joined,
    sign_offer,
)
from privfed_dpo.deployment.roster import load_roster
from privfed_dpo.engine.messages import WIRE_VERSION, Envelope, MalformedEnvelope, decode, encode
from privfed_dpo.errors import ConfigError, ContradictoryConfig
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy

KEYS = [IdentityKey.generate(counted_entropy(f"{n}")) for n in range(4)]
HEX = [key.public.hex() for key in KEYS]


def write_roster(path, **changes):
    clients = {name: {"pairs": 5, "key": key} for name, key in zip("cab", HEX[1:], strict=True)}
    path.write_text(yaml.safe_dump({"coordinator": HEX[0], "clients": clients} | changes))
    return path


def test_clients_are_numbered_by_name_whatever_the_order_of_the_file(tmp_path):
    roster = load_roster(write_roster(tmp_path / "r.yaml"))
    assert roster.names == ("a", "b", "c")
    assert roster.by_number == {0: KEYS[2].public, 1: KEYS[3].public, 2: KEYS[1].public}
    other = write_roster(
        tmp_path / "o.yaml",
        clients={"a": {"pairs": 6, "key": HEX[1]}},
    )
    assert load_roster(other).digest != roster.digest
    assert load_roster(write_roster(tmp_path / "again.yaml")).digest == roster.digest


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"clients": {"a": {"pairs": 5, "key": HEX[0]}}}, "same key"),
        ({"clients": {"a": {"pairs": 0, "key": HEX[1]}}}, "clients.a.pairs"),
        ({"clients": {"a": {"pairs": 1, "key": "12"}}}, "clients.a.key"),
        ({"clients": {}}, "clients"),
        ({"stranger": 1}, "stranger"),
    ],
)
def test_a_roster_that_fixes_nothing_is_refused(tmp_path, changes, word):
    with pytest.raises(ConfigError, match=word):
        load_roster(write_roster(tmp_path / "r.yaml", **changes))


def test_a_key_is_made_once_and_kept_from_others(tmp_path):
    path = tmp_path / "state" / "identity.key"
    with pytest.raises(ConfigError, match="no signing key"):
        load_identity(path)
    first = enrol_identity(path, counted_entropy("k"))
    assert enrol_identity(path, counted_entropy("other")).public == first.public
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="read by others"):
        load_identity(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes"):
        load_identity(path)


POLICY = {"name": "a", "data": "pairs.jsonl", "limits": {"max_epsilon": 4}}


def test_a_policy_s_paths_start_at_its_own_folder(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump({**POLICY, "limits": {"max_epsilon": 4.0, "plans": ["aa"]}}))
    policy = load_policy(path)
    assert policy.data == str(tmp_path / "pairs.jsonl")
    assert policy.socket == str(tmp_path / "client.sock")
    assert policy.model is None
    assert policy.limits.plans == ("aa",)
    assert os.path.isabs(policy.state)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"limits": {}}, "limits.max_epsilon"),
        ({"limits": {"max_epsilon": -1.0}}, "limits.max_epsilon"),
        ({"limits": {"max_epsilon": 1.0, "min_cohort": 2}}, "limits.min_cohort"),
        ({"colour": "red"}, "colour"),
        ({"name": ""}, "name"),
    ],
)
def test_a_policy_with_gaps_is_refused(tmp_path, changes, word):
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump({**POLICY, **changes}))
    with pytest.raises(ConfigError, match=word):
        load_policy(path)


CONFIG = parse_config(
    "privacy: {target_epsilon: 3, sample_rate: 0.1}",
    [
        "deployment.roster=/secret/roster.yaml",
        "data.eval=/secret/held_out.jsonl",
        "model.base=/models/b",
        "run.cache_dir=/secret/cache",
        "run.seed=7",
    ],
)


def document(**changes):
    fields = {
        "version": DOCUMENT_VERSION,
        "run_id": b"r" * 16,
        "config": public_settings(CONFIG),
        "roster": "aa",
        "model_fingerprint": "ff",
        "plan_hash": "pp",
    }
    return encode(RunDocument(**(fields | changes)))


def test_a_description_says_what_concerns_all_and_nothing_of_the_coordinator_s_disk():
    encoded = document()
    assert b"secret" not in encoded
    settings = read_document(encoded).settings()
    assert settings.privacy == CONFIG.privacy
    assert settings.federation == CONFIG.federation
    assert settings.run.seed == 7


@pytest.mark.parametrize(
    "encoded",
    [b"", document(version=9), document(run_id=b"short"), document() + b"\0", bytes(2**20 + 1)],
)
def test_other_descriptions_are_refused(encoded):
    with pytest.raises(MalformedEnvelope):
        read_document(encoded)


def test_a_description_s_settings_are_json_and_known():
    with pytest.raises(ConfigError, match="no JSON"):
        read_document(document(config="a: &x [1]\nb: *x")).settings()
    with pytest.raises(ConfigError, match="unknown key"):
        read_document(document(config='{"backdoor": {}}')).settings()


def test_offers_and_answers_are_bound_to_keys_document_and_nonce():
    offer = sign_offer(document(), KEYS[0], b"n" * 32)
    assert is_offer(encode(offer))
    assert decode(encode(offer), Offer) == offer
    assert offered_by(offer, KEYS[0].public)
    assert not offered_by(offer, KEYS[1].public)
    assert not offered_by(
        Offer(document(roster="bb"), offer.signature, offer.nonce), KEYS[0].public
    )
    joined = sign_joined(offer, "a", KEYS[1])
    assert joined_by(joined, offer, KEYS[1].public)
    assert not joined_by(joined, offer, KEYS[2].public)
    assert not joined_by(joined, sign_offer(document(), KEYS[0], b"m" * 32), KEYS[1].public)
    assert not joined_by(Joined("a", b"short"), offer, KEYS[1].public)


def test_messages_of_rounds_are_no_offers():
    envelope = Envelope(WIRE_VERSION, b"r" * 16, 1, "Start", -1, b"")
    assert not is_offer(encode(envelope))
    assert not is_offer(b"")


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("data.eval=null", "data.eval"),
        ("privacy.label_epsilon=1", "label_epsilon"),
        ("secure_agg.dropout_rate=0.1", "dropout_rate"),
        ("evaluation.audit_lanes=8", "audit_lanes"),
        ("model.base=tiny-llama", "tiny-llama"),
    ],
)
def test_what_only_a_simulation_can_do_is_refused(override, word):
    fixed = ["deployment.roster=r.yaml", "data.eval=e.jsonl", "model.base=b"]
    with pytest.raises(ContradictoryConfig, match=word):
        parse_config("privacy: {target_epsilon: 3}", [*fixed, override])
