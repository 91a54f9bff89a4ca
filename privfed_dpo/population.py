"""How far the users of a run differ, as far as it is known: stated dials, or held-out votes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from privfed_dpo.config import Config
from privfed_dpo.data.disagreement import pairwise_disagreement
from privfed_dpo.data.optimum import KnownOptimum
from privfed_dpo.inputs import Inputs


@dataclass(frozen=True, slots=True)
class PopulationFacts:
    """What is known about the users, none of it from training pairs of real people.

    Attributes:
        pairwise_disagreement: of the users' own reward weights on held-out pairs where these are
            known, else of votes on held-out pairs that several users judged; None if there are no
            such pairs.
        optimum: how well one could do on the embedded task's own held-out pairs; None elsewhere.
        dials: how much the embedded task's users differ; None elsewhere.
    """

    pairwise_disagreement: float | None
    optimum: KnownOptimum | None
    dials: Mapping[str, object] | None

    def described(self) -> dict[str, object]:
        """Plain data for the summary."""
        optimum = None if self.optimum is None else asdict(self.optimum)
        if optimum is not None:
            del optimum["pairwise_disagreement"]
        source = "held-out votes" if optimum is None else "own reward weights"
        return {
            "pairwise_disagreement": self.pairwise_disagreement,
            "disagreement_of": None if self.pairwise_disagreement is None else source,
            "bayes_accuracy": optimum,
            "dials": self.dials,
        }


def population_facts(config: Config, inputs: Inputs) -> PopulationFacts:
    """Collect what is known about a run's users.

    Args:
        config: for the dials.
        inputs: the run's pairs; of these only held-out ones are looked at.
    """
    if inputs.task is None or config.data.eval is not None:
        return PopulationFacts(pairwise_disagreement(inputs.held_out), None, None)
    dials = {"heterogeneity": config.data.heterogeneity, **config.data.synthetic.model_dump()}
    optimum = inputs.task.optimum
    return PopulationFacts(optimum.pairwise_disagreement, optimum, dials)
