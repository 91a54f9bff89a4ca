"""What a client makes of a run's description that somebody else wrote."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from privfed_dpo.config import parse_config
from privfed_dpo.config.client_policy import ClientPolicy, LimitsConfig
from privfed_dpo.data.pairs import PreferencePair
from privfed_dpo.deployment.joining import (
    DOCUMENT_VERSION,
    RunDocument,
    public_settings,
    sign_offer,
)
from privfed_dpo.deployment.member import Member
from privfed_dpo.deployment.roster import Roster
from privfed_dpo.engine.client import ClientRefused
from privfed_dpo.engine.messages import COORDINATOR, START, WIRE_VERSION, Envelope, encode
from privfed_dpo.errors import ConfigError
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy
from tests.support.fake_federation import (
    COORDINATOR_KEY,
    DIMENSION,
    RUN_ID,
    fake_contributor,
    fake_plan,
    fake_start,
    invitation,
    signed_start,
)

KEYS = {n: IdentityKey.generate(counted_entropy(n)) for n in ("server", "a", "b", "c", "stranger")}
PAIRS = (PreferencePair(prompt="p", chosen="c", rejected="r"),)
ROSTER = Roster(
    coordinator=KEYS["server"].public,
    keys={name: KEYS[name].public for name in "abc"},
    pairs=dict.fromkeys("abc", 1),
)
CONFIG = parse_config(
    "privacy: {target_epsilon: 3, sample_rate: 0.5}",
    ["deployment.roster=r.yaml", "data.eval=e.jsonl", "model.base=b"],
)


def member(folder, *, name="a", key="a", pairs=PAIRS):
    policy = ClientPolicy(
        name=name,
        data="unused",
        roster="unused",
        state=str(folder),
        socket="unused",
        model=str(folder / "own-base"),
        limits=LimitsConfig(max_epsilon=5.0),
    )
    return Member(
        policy,
        roster=ROSTER,
        identity=KEYS[key],
        pairs=pairs,
        entropy=counted_entropy("noise"),
        journal=lambda event, **facts: None,
    )


def offer(signer="server", **changes):
    fields = {
        "version": DOCUMENT_VERSION,
        "run_id": b"r" * 16,
        "config": public_settings(CONFIG),
        "roster": ROSTER.digest,
        "model_fingerprint": "ff",
        "plan_hash": "pp",
    }
    document = encode(RunDocument(**(fields | changes)))
    return encode(sign_offer(document, KEYS[signer], b"n" * 32))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"name": "b"}, "no client 'b' with this client's key"),
        ({"key": "stranger"}, "no client 'a'"),
        ({"pairs": PAIRS * 2}, "holds 1 pairs; there are 2"),
    ],
)
def test_a_client_that_does_not_fit_the_roster_does_not_start(tmp_path, changes, word):
    with pytest.raises(ConfigError, match=word):
        member(tmp_path, **changes)


def test_an_offer_of_somebody_else_or_for_other_parties_is_refused(tmp_path):
    with pytest.raises(ClientRefused, match="not signed by the enrolled coordinator"):
        member(tmp_path).handle(offer(signer="stranger"))
    with pytest.raises(ClientRefused, match="another roster"):
        member(tmp_path).handle(offer(roster="00"))
    assert not list((tmp_path / "runs").iterdir())


def test_a_round_of_a_run_that_was_not_joined_is_refused(tmp_path):
    start = encode(Envelope(WIRE_VERSION, b"x" * 16, 1, START, COORDINATOR, b""))
    with pytest.raises(ClientRefused, match="not joined"):
        member(tmp_path).handle(start)


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """A client that has joined a run of eight; plan and model are made up, nothing else is."""
    names = [f"client-{n}" for n in range(8)]
    keys = {name: IdentityKey.generate(counted_entropy(name)) for name in names}
    roster = Roster(
        COORDINATOR_KEY.public, {n: k.public for n, k in keys.items()}, dict.fromkeys(names, 10)
    )
    plan = fake_plan("federation.rounds=5")
    plan = replace(plan, facts=replace(plan.facts, model_fingerprint="ff"))
    mine = fake_contributor(plan, 0, "mine")
    monkeypatch.setattr("privfed_dpo.deployment.member.plan_only", lambda config, inputs: plan)
    monkeypatch.setattr(
        "privfed_dpo.deployment.member.assemble",
        lambda config, inputs: SimpleNamespace(plan=plan, shards=[mine.shard], source=mine.source),
    )
    policy = ClientPolicy(
        name="client-0",
        data="unused",
        state=str(tmp_path),
        limits=LimitsConfig(max_epsilon=1000.0, max_delta=0.01),
    )
    client = Member(
        policy,
        roster=roster,
        identity=keys["client-0"],
        pairs=tuple(PreferencePair(f"p{n}", "c", "r") for n in range(10)),
        entropy=counted_entropy("member"),
        journal=lambda event, **facts: None,
    )
    client.handle(offered(client, plan, RUN_ID))
    return client, plan


def offered(client, plan, run_id):
    """The coordinator's offer of a run of the plan to that client."""
    document = RunDocument(
        version=DOCUMENT_VERSION,
        run_id=run_id,
        config=public_settings(CONFIG),
        roster=client._roster.digest,
        model_fingerprint="ff",
        plan_hash=plan.plan_hash,
    )
    return encode(sign_offer(encode(document), COORDINATOR_KEY, b"n" * 32))


def started(plan, number, run_id=RUN_ID, key=COORDINATOR_KEY):
    """The invitation of all eight to a round."""
    weights = np.zeros(DIMENSION, dtype=np.float32)
    start = fake_start(plan, range(8), weights, number, run_id=run_id)
    return invitation(signed_start(start, number, key, run_id), number, run_id)


OTHER = b"o" * 16


@pytest.mark.parametrize("message", ["an offer", "an invitation"])
def test_a_round_that_is_under_way_is_not_given_up_for_another_run(joined, message):
    """It is booked already: given up, it would have cost what it costs, for nothing."""
    client, plan = joined
    client.handle(offered(client, plan, OTHER))
    client.handle(started(plan, 1))
    spent, session = client._books.total(), client._joined.client._session
    other = {"an offer": offered(client, plan, OTHER), "an invitation": started(plan, 1, OTHER)}
    with pytest.raises(ClientRefused, match="another run is under way"):
        client.handle(other[message])
    assert client._joined.client._session is session
    assert client._books.total() == spent
    client._clock = lambda: client._answered + 600.0
    client.handle(other[message])
    assert client._joined.run_id == OTHER, "a coordinator that went away holds nobody up for ever"


def test_no_message_but_a_signed_invitation_to_a_new_round_changes_the_run(joined):
    """Whoever reaches the port knows the names of runs; to open one takes a plan and a model."""
    client, plan = joined
    client.handle(started(plan, 1))
    client._clock = lambda: client._answered + 600.0
    client.handle(offered(client, plan, OTHER))
    step = encode(Envelope(WIRE_VERSION, RUN_ID, 2, "ShareKeys", COORDINATOR, b""))
    for message, word in (
        (step, "not open"),
        (started(plan, 1), "not open"),
        (started(plan, 2, key=KEYS["stranger"]), "not signed"),
    ):
        with pytest.raises(ClientRefused, match=word):
            client.handle(message)
        assert client._joined.run_id == OTHER
    client.handle(started(plan, 2))
    assert client._joined.run_id == RUN_ID


def test_an_invitation_of_somebody_else_costs_nothing(joined):
    """Run and plan are public: whoever reaches the port can name them."""
    client, plan = joined
    weights = np.zeros(DIMENSION, dtype=np.float32)
    far, true = (fake_start(plan, range(8), weights, number) for number in (2**63, 1))
    for start, number in (
        (signed_start(true, 1, KEYS["stranger"]), 1),
        (signed_start(far, 2**63, KEYS["stranger"]), 2**63),
        (far, 2**63),
        (fake_start(plan, range(8), weights, 6), 6),
    ):
        with pytest.raises(ClientRefused, match=r"not signed|no round"):
            client.handle(invitation(start, number))
        assert client._books.total().epsilon == 0
        assert client._books.last_round(RUN_ID) == 0
    client.handle(invitation(true, 1))
    assert client._books.total().epsilon > 0
    assert client._books.last_round(RUN_ID) == 1


def test_no_path_in_a_run_s_description_is_followed(tmp_path):
    """A coordinator could name any file of the client's disk."""
    hostile = CONFIG.model_copy(
        update={
            "run": CONFIG.run.model_copy(update={"dir": "/x", "cache_dir": "/y", "processes": 9}),
            "gossip": CONFIG.gossip.model_copy(update={"links_file": "/dev/zero"}),
        }
    )
    mine = member(tmp_path)._localised(hostile)
    assert (mine.run.dir, mine.run.cache_dir, mine.run.processes) == (None, None, 1)
    assert mine.gossip.links_file is None
    assert mine.model.base == str(tmp_path / "own-base")
    assert mine.privacy == CONFIG.privacy
