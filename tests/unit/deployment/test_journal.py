"""What the coordinator's log says about a round: one JSON object for each thing that happened."""

import json

from privfed_dpo.deployment.journal import LOG_FILE, in_folder, journal_of_rounds
from privfed_dpo.engine.events import ReplyRefused, SharesDisputed


def test_what_is_refused_or_in_dispute_stands_in_the_log_with_all_it_concerns(tmp_path):
    observe = journal_of_rounds(in_folder(tmp_path))
    observe(ReplyRefused(4, "Unmask", 3, "a share out of range"))
    observe(SharesDisputed(4, 0, (1, 3), "client 0 lied, or all of them did"))
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    facts = [{key: value for key, value in line.items() if key != "time"} for line in lines]
    assert facts == [
        {
            "event": "reply refused",
            "round": 4,
            "phase": "Unmask",
            "client": 3,
            "reason": "a share out of range",
        },
        {
            "event": "shares disputed",
            "round": 4,
            "owner": 0,
            "holders": [1, 3],
            "reason": "client 0 lied, or all of them did",
        },
    ]
