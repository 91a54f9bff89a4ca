"""What a client makes of a run's description that somebody else wrote."""

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
from privfed_dpo.engine.messages import COORDINATOR, START, Envelope, encode
from privfed_dpo.errors import ConfigError
from secure_agg import IdentityKey
from tests.support.entropy import counted_entropy

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
    start = encode(Envelope(1, b"x" * 16, 1, START, COORDINATOR, b""))
    with pytest.raises(ClientRefused, match="not joined"):
        member(tmp_path).handle(start)


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
