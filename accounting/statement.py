"""The guarantee in words: what is promised, to whom, under which assumptions, and what is not."""

import math
from collections.abc import Mapping

from accounting.accountants import Accounting, EpsilonPair
from accounting.adversaries import Adversary, ReleaseSchedule
from accounting.ledger_format import LedgerHeader
from accounting.modes import Mode
from accounting.skellam_shares import SkellamNoise
from accounting.units import PrivacyUnit

_DECIMALS = 4
_UNIT_WORDS = {
    PrivacyUnit.PAIR: "one preference pair (prompt, chosen, rejected)",
    PrivacyUnit.USER: "all preference pairs of one user",
}


def guarantee(
    header: LedgerHeader,
    epsilon: Mapping[Adversary, EpsilonPair],
    *,
    participations: int | None = None,
    realised: float | None = None,
) -> str:
    """Return the guarantee of a run, or of a plan, as text of about twenty lines.

    Numbers are rounded up, so the text never promises more than they do.

    Args:
        header: what the run is held to.
        epsilon: adversary -> certified epsilon, from `Ledger.epsilons`, a `LedgerVerdict`, or
            `ReleaseSchedule.epsilon` for a plan; an adversary that is missing is not mentioned.
        participations: rounds of the busiest client; the plan's cap if None.
        realised: epsilon by the RDP filter with the survivors there were, if known.
    """
    schedule = header.schedule
    rounds = schedule.participations if participations is None else participations
    if schedule.mode is Mode.NONE or header.budget is None:
        return _no_guarantee(header, rounds)
    lines = [
        (
            f"Run {header.run_id}: (epsilon, delta)-differential privacy, "
            f"delta = {header.budget.delta:g}, mode {schedule.mode}."
        ),
        f"Unit: {_UNIT_WORDS[header.unit]}{_copies(schedule)}.",
        (
            "Adjacency: zero-out. Any one unit may be replaced by a null record that contributes "
            "nothing; the sizes of all data sets are public."
        ),
        _scope(schedule, rounds),
        _heading(schedule),
        *(
            f"  {adversary}: {_bounds(epsilon[adversary])} - {_eyes(adversary, schedule)}"
            for adversary in (
                Adversary.COALITION,
                Adversary.SERVER,
                Adversary.OUTSIDE,
                Adversary.NO_SECAGG,
            )
            if adversary in epsilon
        ),
    ]
    if realised is not None:
        lines.append(
            f"With the survivors there really were, the RDP filter gives {_up(realised)}; "
            "this is information, the bounds above are the guarantee."
        )
    lines += _label_lines(schedule, epsilon.get(schedule.headline), header.budget.delta)
    return "\n".join([*lines, *_assumptions(schedule), *_limits(schedule)])


def _heading(schedule: ReleaseSchedule) -> str:
    if schedule.accounting is Accounting.REDUCTION:
        return "Upper bounds on epsilon (PLD certified; RDP as a cross-check):"
    noise = "Skellam" if isinstance(schedule.noise, SkellamNoise) else "discrete Gaussian"
    return f"Upper bounds on epsilon (RDP of the {noise} noise itself, certified):"


def _bounds(pair: EpsilonPair) -> str:
    if pair.accounting is Accounting.REDUCTION:
        return f"{_up(pair.pld)} (RDP {_up(pair.rdp)})"
    by_reduction = "" if math.isinf(pair.pld) else f" (PLD by reduction {_up(pair.pld)})"
    return _up(pair.rdp) + by_reduction


def _label_lines(schedule: ReleaseSchedule, unit: EpsilonPair | None, delta: float) -> list[str]:
    """State what the flips promise about labels: a unit of its own, never added to the others."""
    labels = schedule.labels
    cost = schedule.label_cost(math.inf if unit is None else unit.certified, delta)
    if labels is None or cost is None:
        return []
    lines = [
        (
            "Labels, a unit of their own: which of a pair's two answers was preferred was flipped "
            f"once with probability {labels.flip_probability:.6g} before anything was computed."
        ),
        (
            f"  One label against everybody: epsilon = {_up(cost.pure)}, delta = 0, however "
            "many rounds; prompts and answers are not covered by it, and k labels of one person "
            "get k times as much."
        ),
    ]
    if cost.delta > 0:
        lines.append(
            f"  Flips and noise together: epsilon = {_up(cost.epsilon)} at delta = "
            f"{cost.delta:.3e} for one label, against the {schedule.headline}."
        )
    lines.append(
        "  This holds if flips are secret, drawn once per label and never again, and the true "
        "labels are used nowhere else."
    )
    return lines


def _scope(schedule: ReleaseSchedule, rounds: int) -> str:
    if schedule.mode is not Mode.USER:
        where = "clients hold disjoint data" if schedule.copies is None else "copies are counted in"
        return (
            f"Scope: what {rounds} rounds release about one unit, each at sample rate "
            f"{schedule.sample_rate:g}; {where}."
        )
    scope = f"Scope: {rounds} rounds of one user, each the sum of its cohort's clipped updates"
    if schedule.secret_cohort is None:
        return scope + "."
    return (
        f"{scope}; users join each of {schedule.secret_cohort.rounds} rounds with probability "
        f"{schedule.secret_cohort.rate:g}, for which no credit is taken."
    )


def _no_guarantee(header: LedgerHeader, rounds: int) -> str:
    scope = " for pairs" if header.schedule.labels else ""
    return "\n".join(
        (
            (
                f"Run {header.run_id}: NO differential privacy{scope}: no noise, hence infinite "
                "epsilon."
            ),
            (
                f"{rounds} rounds are released as they are; whoever holds the model, or any of the "
                "sums, may learn about single pairs."
            ),
            *(
                _label_lines(header.schedule, None, 0.5)
                or ("Use this run as a baseline only, on data that may be public.",)
            ),
        )
    )


def _eyes(adversary: Adversary, schedule: ReleaseSchedule) -> str:
    """Say who the adversary is, in this plan's numbers."""
    if schedule.mode is Mode.LOCAL:
        return {
            Adversary.COALITION: "the server together with all other clients",
            Adversary.SERVER: "the server",
            Adversary.OUTSIDE: "whoever holds the released model",
            Adversary.NO_SECAGG: "the same, though secure aggregation fails",
        }[adversary]
    if schedule.mode is Mode.GOSSIP:
        return {
            Adversary.COALITION: "all other nodes together, whatever they exchange",
            Adversary.SERVER: "nobody has this part: there is no server; any one neighbour",
            Adversary.OUTSIDE: "whoever holds a released model",
            Adversary.NO_SECAGG: "the same: the noise is in each message, not in a sum",
        }[adversary]
    noise = schedule.noise
    colluders = noise.colluders if noise is not None and not isinstance(noise, int | float) else 0
    fewest = f"{schedule.threshold} of {schedule.cohort} survivors"
    if schedule.cohort is None:
        fewest = f"at least {schedule.threshold} survivors"
    return {
        Adversary.COALITION: f"the server and {colluders} colluding clients, {fewest}",
        Adversary.SERVER: f"the server alone, {fewest}",
        Adversary.OUTSIDE: "whoever holds the released model; no credit for hidden participation",
        Adversary.NO_SECAGG: "what would be left if secure aggregation failed: one share of noise",
    }[adversary]


def _assumptions(schedule: ReleaseSchedule) -> list[str]:
    if schedule.mode is Mode.USER:
        lines = [
            "This holds if:",
            (
                "  - each user is one client, whose whole update is clipped once; updates weigh "
                "the same, and sums are divided by public constants only;"
            ),
            "  - no user takes part in more rounds than stated;",
        ]
    else:
        lines = [
            "This holds if:",
            (
                "  - each pair's gradient is clipped once, as a whole, and sums are divided by "
                "public constants only;"
            ),
            "  - it does not depend on other pairs, or by rounding only, and that moves no sum;",
            (
                "  - every pair joins a batch independently with the stated rate, and batches and "
                "their sizes stay inside the client;"
            ),
        ]
    lines.append(
        "  - noise and sampling come from a secret cryptographic source that is never reused;"
    )
    if schedule.mode in {Mode.DISTRIBUTED, Mode.USER}:
        lines += [
            "  - secure aggregation opens one sum per round, and none below the threshold;",
            (
                "  - at most the stated number of clients collude or leave out their noise, fake "
                "clients counted among them;"
            ),
        ]
    else:
        itself = "node" if schedule.mode is Mode.GOSSIP else "client"
        lines.append(f"  - the {itself} itself follows the protocol;")
    lines.append(f"  - {_places(schedule)}, and nothing else computed from it is published.")
    return lines


def _copies(schedule: ReleaseSchedule) -> str:
    if schedule.copies is None:
        return ""
    return f", with all its copies, of which there are at most {schedule.copies.most}"


def _places(schedule: ReleaseSchedule) -> str:
    if schedule.mode is Mode.USER:
        return "all pairs of a user sit at one client"
    if schedule.copies is None:
        return "no pair stands twice in the data, at one client or at two"
    most = schedule.copies.most
    if schedule.copies_share_sums:
        return f"no pair stands more than {most} times in the data, at one client or at several"
    return f"no pair sits at more than {most} clients, or twice at one"


def _limits(schedule: ReleaseSchedule) -> list[str]:
    beyond = (
        "a person who owns several clients, beyond what each client gets"
        if schedule.mode is Mode.USER
        else "a person with several pairs, beyond what each pair gets"
    )
    lines = [
        "Not protected:",
        f"  - {beyond};",
        "  - data set sizes, who took part and when, and what the model says about everybody;",
        "  - the choice among several private runs, and metrics computed on private data.",
    ]
    if schedule.slack.log_ratio > 0:
        distance = (
            "The noise is discrete; its distance from the model used here"
            if schedule.accounting is Accounting.REDUCTION
            else "The sampler's distance from exact noise"
        )
        lines.append(
            f"{distance} ({schedule.slack.log_ratio:.1e} in log ratio) is included in the bounds."
        )
    return lines


def _up(value: float) -> str:
    """Format a bound, rounded up, so that the text is never below the number."""
    if math.isinf(value):
        return "infinite"
    scale = 10.0**_DECIMALS
    return f"{math.ceil(value * scale) / scale:.{_DECIMALS}f}"
