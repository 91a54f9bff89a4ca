"""Known privacy bugs, planted in the engine's real parts: what a self-test has to catch.

Each bug replaces one part by a subclass that gets one thing wrong, as it has gone wrong in
published code or nearly did in ours. Nothing here is reachable from training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt
import torch

from privfed_dpo.audit.simulation import Build, PlanChange, TableGradients, secret
from privfed_dpo.engine.contribution import Contributor, Reals, Steps
from privfed_dpo.engine.plan import RunPlan
from privfed_dpo.mechanism.clip import PairClipper
from privfed_dpo.mechanism.keystream import Entropy, Keystream, StreamIssuer
from privfed_dpo.mechanism.noise import DiscreteGaussian, NoiseSampler
from privfed_dpo.mechanism.sampler import PoissonSampler


def _becomes(kind: type[RunPlan]) -> PlanChange:
    """Every party follows the same plan, but of a wrong kind."""

    def change(plan: RunPlan, client: int) -> RunPlan:
        del client
        return kind(**{field.name: getattr(plan, field.name) for field in fields(plan)})

    return change


def _only_client_0(kind: type[RunPlan], first: type[RunPlan] = RunPlan) -> PlanChange:
    """Client 0 follows the plan `first`, all others one of another kind."""

    def change(plan: RunPlan, client: int) -> RunPlan:
        return _becomes(kind if client > 0 else first)(plan, client)

    return change


class _NoNoise(RunPlan):
    def share_noise(self) -> NoiseSampler | None:
        return None


class _ScaledNoise(RunPlan):
    """Scales the share's standard deviation."""

    def _factor(self) -> float:
        return 1.0

    def share_noise(self) -> NoiseSampler | None:
        noise = super().share_noise()
        return DiscreteGaussian(noise.stddev_steps * self._factor()) if noise else None


class _NoiseOverN(_ScaledNoise):
    def _factor(self) -> float:
        honest = self.threshold - self.colluders
        return math.sqrt(honest) / self.cohort


class _DropoutsForgotten(_ScaledNoise):
    def _factor(self) -> float:
        return math.sqrt((self.threshold - self.colluders) / self.cohort)


class _AllNoiseAtOnce(_ScaledNoise):
    def _factor(self) -> float:
        return math.sqrt(self.threshold - self.colluders)


class _UnclippedRows(PairClipper):
    def integer_rows(self, gradients: torch.Tensor) -> tuple[npt.NDArray[np.int64], int]:
        scale = self.sensitivity_steps / self.max_grad_norm
        return np.trunc(gradients.double().numpy() * scale).astype(np.int64), 0


class _RoundedRows(PairClipper):
    """Rounds to the nearest step, which can lengthen a vector, instead of toward zero."""

    def integer_rows(self, gradients: torch.Tensor) -> tuple[npt.NDArray[np.int64], int]:
        norms = gradients.double().norm(dim=1, keepdim=True).clamp(min=self.max_grad_norm)
        return np.rint((gradients / norms * self.sensitivity_steps).numpy()).astype(np.int64), 0


class _NanRows(PairClipper):
    def integer_rows(self, gradients: torch.Tensor) -> tuple[npt.NDArray[np.int64], int]:
        steps, _ = super().integer_rows(torch.nan_to_num(gradients, nan=1.0, posinf=1.0))
        return steps, 0


class _ClipSkipped(RunPlan):
    def clipper(self) -> PairClipper | None:
        return _recast(super().clipper(), _UnclippedRows)


class _Rounded(RunPlan):
    def clipper(self) -> PairClipper | None:
        return _recast(super().clipper(), _RoundedRows)


class _NanPasses(RunPlan):
    def clipper(self) -> PairClipper | None:
        return _recast(super().clipper(), _NanRows)


class _ClipDoubled(RunPlan):
    def clipper(self) -> PairClipper | None:
        clipper = super().clipper()
        if clipper is None:
            return None
        return PairClipper(2.0 * clipper.max_grad_norm, 2 * clipper.sensitivity_steps)


def _recast(clipper: PairClipper | None, kind: type[PairClipper]) -> PairClipper | None:
    return kind(clipper.max_grad_norm, clipper.sensitivity_steps) if clipper else None


class _RateDoubled(RunPlan):
    def sampler(self) -> PoissonSampler:
        return PoissonSampler(min(1.0, 2.0 * self.schedule.sample_rate))


class _FixedSampler(PoissonSampler):
    def draw(self, population: int, stream: Keystream) -> npt.NDArray[np.intp]:
        order = np.argsort(stream.words(population))
        return np.sort(order[: round(self.sample_rate * population)])


class _FixedBatches(RunPlan):
    def sampler(self) -> PoissonSampler:
        return _FixedSampler(self.schedule.sample_rate)


class _RealisedServerDivisor(RunPlan):
    """Divides by how many pairs the clients drew, which a sampler in the same process tells."""

    drawn: list[int] = []  # noqa: RUF012 - shared on purpose: that is the bug

    def sampler(self) -> PoissonSampler:
        drawn = self.drawn

        class Counting(PoissonSampler):
            def draw(self, population: int, stream: Keystream) -> npt.NDArray[np.intp]:
                batch = super().draw(population, stream)
                drawn.append(batch.size)
                return batch

        return Counting(self.schedule.sample_rate)

    @property
    def expected_batch_pairs(self) -> float:
        return float(max(1, sum(self.drawn[-self.cohort :])))


class _RowsPerCompletion(TableGradients):
    """Gives a row for every completion, so that a pair is clipped twice."""

    def rows(self, numbers: Sequence[int]) -> npt.NDArray[np.float64]:
        return self.halves[list(numbers)].reshape(-1, self.halves.shape[2])


class _RealisedDivisor(Contributor):
    def _mean_gradient(self, label: str) -> Reals:
        mean = super()._mean_gradient(label)
        drawn: list[list[int]] = getattr(self.source, "drawn", [[]])
        return mean * self.plan.expected_client_pairs(self.client) / max(1, len(drawn[-1]))


class _QuietSecondStep(Contributor):
    def _noisy_gradient_sum(self, label: str) -> Steps:
        if not label.endswith("/step-1"):
            return super()._noisy_gradient_sum(label)
        quiet = replace(self, plan=_becomes(_NoNoise)(self.plan, self.client))
        return Contributor._noisy_gradient_sum(quiet, label)  # noqa: SLF001 - the same class


class _SilentWhenEmpty(Contributor):
    def _noisy_gradient_sum(self, label: str) -> Steps:
        if not self.shard.pairs:
            return np.zeros(self.plan.vector_length, dtype=np.int64)
        return super()._noisy_gradient_sum(label)


class _LaneDoubled(Contributor):
    def _lane_sum(self, clipper: PairClipper, label: str) -> Steps:
        return 2 * super()._lane_sum(clipper, label)


class _RepeatingIssuer(StreamIssuer):
    """Leaves the round out of the label, so that every round has the same noise."""

    def issue(self, label: str) -> Keystream:
        self._issued.clear()
        return super().issue(label.partition("/")[2])


def _one_key_for_all_clients(entropy: Entropy, client: int) -> StreamIssuer:
    del entropy, client
    return StreamIssuer(secret(0, "one key"))


def _one_key_per_client(entropy: Entropy, client: int) -> StreamIssuer:
    del entropy
    return StreamIssuer(secret(0, "fixed", client))


def _repeating(entropy: Entropy, client: int) -> StreamIssuer:
    del client
    return _RepeatingIssuer(entropy)


PLANTED_BUGS: tuple[Build, ...] = (
    Build("no noise", plan=_becomes(_NoNoise)),
    Build("one client alone adds a share", plan=_only_client_0(_NoNoise)),
    Build("one client adds all the noise", plan=_only_client_0(_NoNoise, _AllNoiseAtOnce)),
    Build("share of std z/n", plan=_becomes(_NoiseOverN)),
    Build("drop-outs and colluders forgotten", plan=_becomes(_DropoutsForgotten)),
    Build("clients with one keystream", issuer=_one_key_for_all_clients),
    Build("rounds with one keystream", issuer=_repeating),
    Build("runs with one keystream", issuer=_one_key_per_client),
    Build("clip rows, not pairs", source=_RowsPerCompletion),
    Build("clip skipped", plan=_becomes(_ClipSkipped)),
    Build("clip norm doubled", plan=_becomes(_ClipDoubled)),
    Build("rounded to nearest", plan=_becomes(_Rounded)),
    Build("NaN pair passes", plan=_becomes(_NanPasses)),
    Build("sample rate doubled", plan=_becomes(_RateDoubled)),
    Build("batches of fixed size", plan=_becomes(_FixedBatches)),
    Build("silent when nothing is drawn", contributor=_SilentWhenEmpty),
    Build("client divides by the realised batch", contributor=_RealisedDivisor),
    Build("server divides by the realised batch", plan=_becomes(_RealisedServerDivisor)),
    Build("second local step without noise", contributor=_QuietSecondStep),
    Build("canary lane of doubled norm", contributor=_LaneDoubled),
)
