"""The floor of a run by source: what keeps |grad L|^2 on held-out pairs from zero, in numbers.

Everything here is computed from the plan, from public facts and from held-out pairs; no training
pair is touched, so it costs no privacy. Each source is predicted by `floor_law` from the curvature
at the run's end; what stands beside it as measured is measured, or null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from privfed_dpo.engine.curvature import Curvature, SpectralMeasure, spectral_measure
from privfed_dpo.engine.floor_inputs import HeldOutSlopes, NoiseLevels
from privfed_dpo.engine.floor_law import RoundLaw, consensus_left

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Source:
    """One source of the floor.

    Attributes:
        name: what it is.
        predicted: squared norm of the gradient; None where nothing predicts it.
        measured: the same, measured; None where a run cannot tell it from the others.
    """

    name: str
    predicted: float | None
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class Floor:
    """The floor of a run, taken apart.

    Attributes:
        sources: what adds up, in |grad L|^2 on held-out pairs; the last one is everything.
        distances: in squares of the adapter: predicted beside what the rounds measured.
        largest_curvature: largest curvature that any probe met.
        curvature_trace: estimated trace of the Hessian, with privacy noise only.
        kept: what clipping leaves of a held-out gradient on average.
    """

    sources: tuple[Source, ...]
    distances: tuple[Source, ...]
    largest_curvature: float
    curvature_trace: float | None
    kept: float


@dataclass(frozen=True, slots=True)
class _Rows:
    """Moments of the gradients of held-out pairs.

    Attributes:
        probes: sums z of clipped gradients with random signs over sqrt(n): E z z^T = E g g^T;
            shape [probes, d].
        clipped_square: mean squared norm after clipping.
        square: mean squared norm before.
        kept: mean share of a gradient that clipping leaves.
    """

    probes: Reals = field(repr=False)
    clipped_square: float
    square: float
    kept: float


class FloorEstimator:
    """Takes a run's floor apart.

    Args:
        slopes: held-out gradients.
        law: the run's rounds; `kept` is found here.
        noise: what its clients sampled and added.
        start: adapter before training, shape [d].
        end: adapter at the end, shape [d].
        steps: products with the Hessian per probe.
        seed: public seed of random signs.
        probes: random vectors for each source of noise; a prediction's relative error falls with
            the root of their number times the curvatures that matter.
    """

    def __init__(
        self,
        slopes: HeldOutSlopes,
        *,
        law: RoundLaw,
        noise: NoiseLevels,
        start: Reals,
        end: Reals,
        steps: int,
        seed: int,
        probes: int = 2,
    ) -> None:
        self._probe_count = probes
        self._slopes = slopes
        self._noise = noise
        self._start, self._end = start, end
        self._steps = steps
        self._rng = np.random.default_rng([seed, 0xF100])
        self._curvature = Curvature(slopes.mean, end)
        self._rows = self._row_moments()
        self._law = replace(law, kept=self._rows.kept)
        self._zeta: tuple[SpectralMeasure, SpectralMeasure] | None = None
        self._group_square: float | None = None
        self._largest = 0.0

    def floor(
        self, measured: float | None, drift: float | None, disagreement: float | None
    ) -> Floor:
        """Predict every source.

        Args:
            measured: mean |grad L|^2 of the last measured rounds.
            drift: mean of their `drift`.
            disagreement: mean of their `consensus_error_before`.
        """
        law, noise = self._law, self._noise
        identity, sampling = self._probes()
        self._split_groups()
        sources = [
            Source("optimisation", self._optimisation()),
            Source("gradient noise", self._sampling(sampling, law.prompt())),
            Source("privacy noise", self._privacy(identity, law.prompt())),
            Source("drift", self._drift()),
            Source("participation", self._participation(law.prompt())),
            Source("staleness", self._staleness(identity, sampling)),
            Source("consensus", self._consensus(identity, sampling, in_gradients=True)),
            Source("held-out pairs are a sample", self._held_out_sample()),
        ]
        known = [source.predicted for source in sources if source.predicted is not None]
        complete = len(known) == len(sources)
        sources.append(Source("all together", sum(known) if complete else None, measured))
        distances = (
            Source("local steps from their start", self._drift_distance(), drift),
            Source(
                "nodes from their mean, before mixing",
                self._consensus(identity, sampling, in_gradients=False),
                disagreement,
            ),
        )
        trace = identity.integral(lambda h: h) if noise.privacy else None
        return Floor(
            tuple(sources),
            tuple(d for d in distances if d.predicted is not None or d.measured is not None),
            self._largest,
            trace,
            self._rows.kept,
        )

    def _measure(self, vector: Reals) -> SpectralMeasure:
        measure = spectral_measure(self._curvature.times, vector, self._steps)
        self._largest = max(self._largest, float(measure.curvatures.max()))
        return measure

    def _probes(self) -> tuple[SpectralMeasure, SpectralMeasure]:
        """How privacy noise and sampled pairs spread over curvatures."""
        isotropic = self._rng.standard_normal(self._rows.probes.shape)
        identity = map(self._measure, isotropic if self._noise.privacy else ())
        sampling = map(self._measure, self._rows.probes if self._noise.sampling else ())
        return SpectralMeasure.mean(list(identity)), SpectralMeasure.mean(list(sampling))

    def _row_moments(self) -> _Rows:
        bound = self._noise.pair_bound
        probes = np.zeros((self._probe_count, self._end.size))
        square = clipped_square = kept = 0.0
        count = 0
        for rows in self._slopes.rows(self._end):
            norms = np.linalg.norm(rows, axis=1)
            factors = np.minimum(1.0, bound / np.maximum(norms, 1e-300))
            signs = self._rng.choice([-1.0, 1.0], size=(self._probe_count, len(rows)))
            probes += (signs * factors) @ rows
            square += float((norms**2).sum())
            clipped_square += float(((factors * norms) ** 2).sum())
            kept += float(factors.sum())
            count += len(rows)
        return _Rows(probes / np.sqrt(count), clipped_square / count, square / count, kept / count)

    def _optimisation(self) -> float:
        """What T noiseless rounds would leave of the first gradient."""
        first = self._measure(self._slopes.mean(self._start))
        return first.integral(lambda h: self._law.distance_left(h) ** 2)

    def _sampling(self, probe: SpectralMeasure, law: RoundLaw) -> float:
        """What sampled pairs in the local steps leave."""

        def gain(curvature: Reals) -> Reals:
            inside = law.step_noise_gain(curvature)
            return np.asarray(curvature**2 * law.noise_left(curvature) * inside)

        return self._noise.sampling * probe.integral(gain)

    def _privacy(self, probe: SpectralMeasure, law: RoundLaw) -> float:
        """What noise leaves that is added in the local steps, or to their sum."""

        def gain(curvature: Reals) -> Reals:
            inside = 1.0 if self._noise.privacy_in_sum else law.step_noise_gain(curvature)
            return np.asarray(curvature**2 * law.noise_left(curvature) * inside)

        return self._noise.privacy * probe.integral(gain)

    def _split_groups(self) -> None:
        """How clients' gradients spread around their mean, free of sampling noise.

        Halves a and b of a client's pairs give independent estimates, and their product has the
        right mean: sum and difference of the two probes carry it.
        """
        groups = self._slopes.groups
        noise = self._noise
        needed = noise.participation or noise.eigenvalues or self._law.local_steps > 1
        if groups < 2 or not needed:  # noqa: PLR2004
            return
        signs = self._rng.choice([-1.0, 1.0], size=(self._probe_count, groups))
        probes = np.zeros((2, self._probe_count, self._end.size))
        centres = np.zeros((2, self._end.size))
        square = 0.0
        for group in range(groups):
            halves = [self._slopes.half(self._end, group, half) for half in (0, 1)]
            square += float(halves[0] @ halves[1])
            for half in (0, 1):
                probes[half] += np.outer(signs[:, group], halves[half])
                centres[half] += halves[half] / groups
        probes -= signs.sum(axis=1)[:, None] * centres[:, None]
        probes *= self._rows.kept / np.sqrt(groups)
        self._group_square = square / groups * self._rows.kept**2
        together, apart = (
            SpectralMeasure.mean([*map(self._measure, (probes[0] + sign * probes[1]) / 2)])
            for sign in (1, -1)
        )
        self._zeta = together, apart

    def _spread(self, gain: Callable[[Reals], Reals]) -> float | None:
        """Mean over clients of (g_i - g)^T gain(H) (g_i - g); None without groups."""
        if self._zeta is None:
            return None
        together, apart = self._zeta
        return max(0.0, together.integral(gain) - apart.integral(gain))

    def _participation(self, law: RoundLaw) -> float | None:
        factor = self._noise.participation
        if factor == 0.0:
            return 0.0

        def gain(curvature: Reals) -> Reals:
            return curvature**2 * law.noise_left(curvature) * law.bias_gain(curvature)

        spread = self._spread(gain)
        return None if spread is None else factor * spread

    def _staleness(self, identity: SpectralMeasure, sampling: SpectralMeasure) -> float | None:
        """What delays add to all noise."""
        if not self._law.max_staleness:
            return 0.0
        late, prompt = (
            (
                self._privacy(identity, law) + self._sampling(sampling, law),
                self._participation(law),
            )
            for law in (self._law, self._law.prompt())
        )
        if late[1] is None or prompt[1] is None:
            return None
        return late[0] + late[1] - prompt[0] - prompt[1]

    def _drift(self) -> float | None:
        """|mean H_i (g_i - g)|^2 times the square of the mean way of a client."""
        length = self._law.drift_length
        if length == 0.0 or self._noise.corrected:
            return 0.0
        groups = self._slopes.groups
        if groups < 2:  # noqa: PLR2004
            return None
        first_halves = (self._slopes.half(self._end, g, 0) for g in range(groups))
        centre = np.sum(list(first_halves), axis=0) / groups
        pulls = np.zeros(self._end.size)
        for group in range(groups):
            own = self._slopes.half(self._end, group, 0) - centre
            other_half = partial(self._slopes.half, group=group, half=1)
            pulls += Curvature(other_half, self._end).times(own) / groups
        return float((self._rows.kept * length) ** 2 * (pulls @ pulls))

    def _held_out_sample(self) -> float:
        """Squared distance of the held-out gradient from the one of all data like it."""
        mean = self._slopes.mean(self._end)
        return max(0.0, self._rows.square - float(mean @ mean)) / self._slopes.pairs

    def _consensus(
        self, identity: SpectralMeasure, sampling: SpectralMeasure, *, in_gradients: bool
    ) -> float | None:
        """What disagreement of nodes adds to their own |grad L|^2, or its own size."""
        eigenvalues = self._noise.eigenvalues
        if eigenvalues is None:
            return 0.0 if in_gradients else None
        modes, law = len(eigenvalues), self._law

        def gain(curvature: Reals, part: int) -> Reals:
            left = consensus_left(law, np.array(eigenvalues), curvature)[part]
            inside = law.bias_gain(curvature) if part else law.step_noise_gain(curvature)
            return np.asarray(left * inside * (curvature**2 if in_gradients else 1.0))

        spread = self._spread(lambda h: gain(h, 1))
        if spread is None:
            return None
        noise = self._noise.privacy * identity.integral(lambda h: gain(h, 0))
        noise += self._noise.sampling * sampling.integral(lambda h: gain(h, 0))
        # Noise levels are those of the mean of n nodes; gradients are dealt evenly to all modes.
        return noise + spread / modes

    def _drift_distance(self) -> float | None:
        """Mean squared distance of local iterates from where their round began."""
        noise, law = self._noise, self._law
        if law.local_steps == 1 or noise.corrected or self._group_square is None:
            return None
        held = (1.0 - law.local_rate * law.proximal) ** np.arange(law.local_steps)
        ways = law.local_rate * np.cumsum(held)
        noisy = law.local_rate**2 * np.cumsum(held**2)
        one_step = noise.sampling * self._rows.clipped_square
        if not noise.privacy_in_sum:
            one_step += noise.privacy * self._end.size
        still = float((ways**2).mean()) * max(0.0, self._group_square)
        return still + float(noisy.mean()) * noise.clients * one_step


def mean_of_last(values: Sequence[float | None], share: float = 0.2) -> float | None:
    """Mean of the last fifth of what was measured, at least one value; None if nothing was."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return float(np.mean(known[-max(1, round(share * len(known))) :]))
