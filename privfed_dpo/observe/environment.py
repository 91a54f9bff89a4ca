"""What a run was made with: versions and machine, without anything that names a person."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

PACKAGES = (
    "privfed-dpo",
    "torch",
    "transformers",
    "peft",
    "opacus",
    "dp-accounting",
    "cryptography",
    "numpy",
    "scipy",
)


def environment_facts() -> dict[str, object]:
    """Return versions of Python and of the packages results rest on, and the kind of machine."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "byteorder": sys.byteorder,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
