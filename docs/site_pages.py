"""Pages of the site that stand elsewhere in the repository, and links that lead out of it.

Read by mkdocs (see `hooks` in mkdocs.yml). README and its neighbours keep their place and become
pages; the interface of the three packages is read from their docstrings; a link to a file that is
no page becomes plain text, so that the site holds no dead link.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
} | {
    f"benchmarks/{path.name}": f"benchmarks/{path.name}"
    for path in sorted((ROOT / "benchmarks").glob("*.md"))
}
"""Page of the site -> file of the repository."""

INTERFACE = {
    "accounting": ("accounting",),
    "secure_agg": ("secure_agg",),
    "privfed_dpo": (
        "privfed_dpo.library",
        "privfed_dpo.trainer",
        "privfed_dpo.trl_arguments",
        "privfed_dpo.publishing",
        "privfed_dpo.verification",
        "privfed_dpo.errors",
    ),
    "engine": (
        "privfed_dpo.engine.plan",
        "privfed_dpo.engine.federated",
        "privfed_dpo.engine.gossip",
        "privfed_dpo.engine.client",
        "privfed_dpo.engine.contribution",
        "privfed_dpo.server_update",
    ),
    "gradients": (
        "privfed_dpo.dpo.loss",
        "privfed_dpo.dpo.pair_gradients",
        "privfed_dpo.dpo.clipped_sums",
        "privfed_dpo.mechanism.clip",
        "privfed_dpo.mechanism.noise",
        "privfed_dpo.mechanism.sampler",
    ),
}
"""Page of the reference -> modules on it."""

_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    for page, source in ELSEWHERE.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    for page, modules in INTERFACE.items():
        content = f"# {page}\n\n" + "\n".join(f"::: {module}\n" for module in modules)
        files.append(File.generated(config, f"reference/{page}.md", content=content))
    return files


def on_config(config: Any) -> Any:
    """Put reference, decisions and measurements into the navigation."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    proofs = sorted((ROOT / "docs" / "proofs").glob("*.md"))
    config["nav"] += [
        {"Interface": [f"reference/{page}.md" for page in INTERFACE]},
        {"Measurements": [page for page in ELSEWHERE if page.startswith("benchmarks/")]},
        {"Proofs": [f"proofs/{path.name}" for path in proofs]},
        {"All decisions": [f"decisions/{path.name}" for path in decisions]},
    ]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead every link to its page, and make plain text of those that lead to no page."""
    here = page.file.src_uri
    source = ELSEWHERE.get(here, f"docs/{here}")
    pages = {source: page for page, source in ELSEWHERE.items()}

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        found = pages.get(target) or (target.removeprefix("docs/") if _in_docs(target) else None)
        if found is None:
            return "]{.elsewhere}"
        path = posixpath.relpath(found, posixpath.dirname(here) or ".")
        return f"]({path}{match[2] or ''})"

    return re.sub(r"\[([^\[\]]*)\]\{\.elsewhere\}", r"\1", _LINK.sub(led, markdown))


def _in_docs(target: str) -> bool:
    return target.startswith("docs/") and (ROOT / target).is_file()
