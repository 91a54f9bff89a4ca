"""Answers of the embedded task read back into the levels of their attributes."""

from __future__ import annotations

import numpy as np

from privfed_dpo.data.synthetic import ATTRIBUTES

LEVEL_OF = [
    {phrase: level for level, phrases in enumerate(attribute) for phrase in phrases}
    for attribute in ATTRIBUTES
]


def levels(completion, prompt):
    """Read an answer back into its four levels, by the grammar alone."""
    verb, noun = prompt.split()[3], prompt.split()[5]
    greeting, rest = completion.strip().split(" , ")
    politeness, rest = rest.split(f" {verb} the {noun} ")
    manner, closing, end = rest.split(" . ")[0], rest.split(" . ")[1].removesuffix(" ."), rest[-1]
    assert end == "."
    parts = (greeting, politeness, manner, closing)
    return tuple(of[part] for of, part in zip(LEVEL_OF, parts, strict=True))


def differences(pairs):
    """Chosen minus rejected in levels, one row per pair."""
    return np.array(
        [
            np.subtract(levels(pair.chosen, pair.prompt), levels(pair.rejected, pair.prompt))
            for pair in pairs
        ]
    )
