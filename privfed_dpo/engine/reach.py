"""What would bring an epsilon within reach: fewer rounds, more pairs, more clients, a larger one.

Any epsilon is met by enough noise, but not every amount of noise lets a model learn. The most that
makes sense is the config's `privacy.max_noise_multiplier`, or else the noise that drowns the data.
Let all rounds together sum the signals of b clipped records each (b expected, every one of norm C)
R times over, all pointing the same way, under independent noise of standard deviation z C in every
coordinate. In that one direction the data then stand R b C high over a noise of sqrt(R) z C: for
z > b sqrt(R) even a single, known direction is lost in the noise. Where that limit lies depends on
public numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice

from accounting.calibrate import LARGEST_NOISE_MULTIPLIER
from privfed_dpo.config import Config
from privfed_dpo.engine.public_facts import PublicFacts

Price = Callable[[Config, PublicFacts, float], float]
"""Config, facts and noise multiplier -> certified epsilon of that plan; infinite if refused."""

_Wish = tuple[Config, PublicFacts]

_CALIBRATION_MARGIN = 0.998
"""Calibration may answer with up to a tenth of a percent more noise than is needed."""
_MOST_PAIRS_FACTOR = 1 << 20
_RELATIVE_PRECISION = 0.01
_DIGITS = 3


def largest_noise_multiplier(config: Config, facts: PublicFacts) -> float:
    """Return the most noise that a plan may be calibrated to.

    Args:
        config: a valid configuration.
        facts: public facts of data and model.

    Returns:
        The config's limit, or the noise multiplier that drowns everything the data can say; never
        more than calibration looks for.
    """
    wanted = config.privacy.max_noise_multiplier
    return min(_drowning(config, facts) if wanted is None else wanted, LARGEST_NOISE_MULTIPLIER)


def _drowning(config: Config, facts: PublicFacts) -> float:
    clients, steps = _cohort(config, facts), config.federation.local_steps
    rounds = config.federation.rounds
    if config.privacy.mode == "user":
        return clients * math.sqrt(rounds)
    pairs = config.privacy.sample_rate * facts.pairs_total / len(facts.client_pairs)
    if config.privacy.mode == "distributed":
        return clients * pairs * math.sqrt(rounds)
    return pairs * math.sqrt(rounds * clients * steps)


def out_of_reach(config: Config, facts: PublicFacts, price: Price) -> tuple[str, str] | None:
    """Say why a target epsilon is out of reach, and what would bring it within.

    Args:
        config: a valid configuration with a target epsilon.
        facts: public facts of data and model.
        price: of a plan with given noise.

    Returns:
        What is wrong, and ways out with keys and values to be typed, each by itself and already
        priced; None if the target is within reach.
    """
    most = largest_noise_multiplier(config, facts)
    epsilon = _least_epsilon(config, facts, price)
    if epsilon <= _target(config):
        return None
    rounds = config.federation.rounds
    if config.privacy.max_noise_multiplier is not None:
        limit = f"privacy.max_noise_multiplier={most:g}, the most noise that is allowed,"
    else:
        limit = (
            f"a noise multiplier of {most:.3g}, above which noise is larger than everything that "
            f"these data can add up to in {rounds} rounds,"
        )
    reason = (
        f"epsilon {_target(config):g} is out of reach for {facts.pairs_total} pairs at "
        f"{len(facts.client_names)} clients: even {limit} costs epsilon {epsilon:.4g}"
    )
    found = list(_ways(config, facts, price))
    if math.isfinite(epsilon):
        found.append(f"privacy.target_epsilon={_round(epsilon, math.ceil):g}")
    within = f"Within reach would be {'; or '.join(found)}. " if found else ""
    return reason, f"{within}{_last_resort(config)}"


def _target(config: Config) -> float:
    return config.privacy.target_epsilon or math.inf


def _least_epsilon(config: Config, facts: PublicFacts, price: Price) -> float:
    """The certified epsilon with as much noise as may be."""
    most = largest_noise_multiplier(config, facts) * _CALIBRATION_MARGIN
    return price(config, facts, most)


def _last_resort(config: Config) -> str:
    if config.privacy.max_noise_multiplier is None:
        return (
            "privacy.max_noise_multiplier=100000 plans it all the same, for a model that learns "
            "nothing."
        )
    return "Or raise privacy.max_noise_multiplier."


def _ways(config: Config, facts: PublicFacts, price: Price) -> Iterator[str]:
    held, own = len(facts.client_names), facts.pairs_total // len(facts.client_names)

    def within(wish: _Wish) -> bool:
        return _least_epsilon(*wish, price) <= _target(config)

    rounds = _most(config.federation.rounds, lambda n: within((_with_rounds(config, n), facts)))
    if rounds is not None:
        yield f"federation.rounds={rounds}"
    if config.privacy.mode != "user":
        pairs = _fewest(
            own, own * _MOST_PAIRS_FACTOR, lambda n: within(_with_pairs(config, facts, n * held))
        )
        if pairs is not None:
            rate = _with_pairs(config, facts, pairs * held)[0].privacy.sample_rate
            yield (
                f"{pairs * held} pairs (there are {facts.pairs_total}), {pairs} at each client on "
                f"average, with privacy.sample_rate={rate:g}, as many in a round as now"
            )
    if not config.decentralised:
        size = _cohort(config, facts)
        clients = _fewest(
            held,
            max(held + 1, size * config.federation.rounds),
            lambda n: within(_with_clients(config, facts, n)),
        )
        if clients is not None:
            yield (
                f"{clients} clients like these (there are {held}) with federation.cohort={size}, "
                "each in fewer rounds"
            )


def _cohort(config: Config, facts: PublicFacts) -> int:
    return config.federation.cohort or len(facts.client_names)


def _with_rounds(config: Config, rounds: int) -> Config:
    return _changed(config, "federation", rounds=rounds)


def _with_pairs(config: Config, facts: PublicFacts, pairs: int) -> _Wish:
    """The same clients with more pairs, and a sample rate that keeps the size of a round."""
    held = facts.pairs_total
    rate = _round(config.privacy.sample_rate * held / pairs, math.floor)
    shares = [own * pairs // held for own in facts.client_pairs]
    for place in range(pairs - sum(shares)):
        shares[place % len(shares)] += 1
    return _changed(config, "privacy", sample_rate=rate), replace(facts, client_pairs=tuple(shares))


def _with_clients(config: Config, facts: PublicFacts, clients: int) -> _Wish:
    """More clients like these, and a cohort of the present size."""
    more = replace(
        facts,
        client_names=tuple(map(str, range(clients))),
        client_pairs=tuple(islice(cycle(facts.client_pairs), clients)),
    )
    return _changed(config, "federation", cohort=_cohort(config, facts)), more


def _changed(config: Config, section: str, **values: object) -> Config:
    part = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: part})


def _most(held: int, within: Callable[[int], bool]) -> int | None:
    """The largest whole number below `held` that is within reach, where smaller ones are too."""
    if held <= 1 or not within(1):
        return None
    low, high = 1, held
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def _fewest(held: int, limit: int, within: Callable[[int], bool]) -> int | None:
    """The smallest number above `held` that is within reach, to a percent; None up to `limit`."""
    low, high = held, min(2 * held, limit)
    while not within(high):
        if high >= limit:
            return None
        low, high = high, min(4 * high, limit)
    while high - low > max(1, _RELATIVE_PRECISION * high):
        middle = (low + high) // 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return high


def _round(value: float, towards: Callable[[float], int]) -> float:
    """A positive number in three significant digits, the shortest to type."""
    unit = 10.0 ** (math.floor(math.log10(value)) - _DIGITS + 1)
    return float(f"{towards(value / unit) * unit:.{_DIGITS}g}")
