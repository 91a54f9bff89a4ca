import pytest

from privfed_dpo.config import parse_config
from privfed_dpo.errors import ConfigError

GOOD = """
data: {clients: 20}
privacy: {mode: gossip, target_epsilon: 8}
secure_agg: {enabled: false}
"""


def problems_of(*overrides):
    try:
        parse_config(GOOD, list(overrides))
    except ConfigError as error:
        return error.problems
    return ()


def test_the_mode_decides_whether_there_is_a_server():
    assert parse_config(GOOD).decentralised
    assert not parse_config("", ["privacy.target_epsilon=8", "data.clients=20"]).decentralised
    baseline = ["privacy.mode=none", "gossip.enabled=true"]
    assert parse_config(GOOD, baseline).decentralised
    assert not parse_config(GOOD, ["privacy.mode=none"]).decentralised


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["gossip.enabled=false"], "gossip.enabled cannot be false"),
        (["privacy.mode=local", "gossip.enabled=true"], "has no server for privacy.mode=local"),
        (["secure_agg.enabled=true"], "set secure_agg.enabled=false"),
        (["secure_agg.dropout_rate=0.1"], "use gossip.node_dropout"),
        (["federation.cohort=5"], "every node takes part"),
        (["federation.max_participations=9"], "takes part in all rounds"),
        (["privacy.dropout_tolerance=1"], "set both to 0"),
        (["privacy.colluders=2"], "set both to 0"),
        (["federation.server_optimizer=sgd"], "federation.server_optimizer=sgd is the server's"),
        (["federation.learning_rate=0.5"], "leave it at 0.01"),
        (["federation.momentum=0.5"], "leave it at 0.9"),
        (["data.clients=1"], "nobody to average with"),
        (["gossip.topology=file"], "belong together"),
        (["gossip.links_file=links.txt"], "belong together"),
        (["gossip.redraw_rounds=5"], "is always the same"),
        (["evaluation.audit_lanes=8"], "audits the summed noise"),
        (["privacy.max_grad_norm=null"], "needs privacy.max_grad_norm"),
    ],
)
def test_what_needs_a_server_is_refused_without_one(overrides, part):
    found = problems_of(*overrides)
    assert any(part in problem for problem in found), found


@pytest.mark.parametrize(
    "overrides",
    [
        ["federation.local_steps=4"],
        ["gossip.topology=expander", "gossip.redraw_rounds=2"],
        ["gossip.topology=file", "gossip.links_file=links.txt"],
        ["gossip.order=cta", "gossip.link_dropout=0.5", "gossip.node_dropout=0.5"],
    ],
)
def test_what_works_without_a_server_is_accepted(overrides):
    assert problems_of(*overrides) == ()
