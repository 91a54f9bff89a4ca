"""Whatever a page tells a reader to type, the real command line understands."""

import re
from pathlib import Path

import pytest
import typer

from privfed_dpo.cli import app
from privfed_dpo.config import load_config
from privfed_dpo.config.loading import key_names
from tests.architecture.documents import DOCUMENTS, ROOT, blocks, code_spans, commands, text_of

TYPED = sorted({(page, words) for page in DOCUMENTS for words in commands(page)})
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
SECTIONS = {name.partition(".")[0] for name in key_names()}
KEY = re.compile(rf"({'|'.join(sorted(SECTIONS))})(\.[a-z_]+)+")


def test_the_pages_do_name_commands():
    typed = {words[:2] for _, words in TYPED}
    assert {("make", "quickstart"), ("make", "test")} <= typed
    assert {("privfed-dpo", name) for name in ("plan", "train", "resume", "verify", "report")} <= {
        words for words in typed if words[0] == "privfed-dpo"
    }


@pytest.mark.parametrize(("page", "words"), TYPED)
def test_a_command_is_one_the_software_knows(page, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *arguments = words
    if program == "make":
        assert set(arguments) <= MAKE_TARGETS, f"{page}: no such target"
        return
    group = typer.main.get_command(app)
    if not arguments:
        return
    name, *rest = arguments
    if name.startswith("--"):
        assert name in {option for taken in group.params for option in taken.opts}, (
            f"{page}: {name}"
        )
        return
    assert name in group.commands, f"{page}: no command {name}"
    if "--help" in rest or not rest:
        return
    context = group.commands[name].make_context(name, list(rest))
    if name in {"plan", "train"}:
        config = Path(context.params["config"])
        if config.name != "CONFIG":
            assert load_config(config, context.params["overrides"] or []), f"{page}: {words}"


@pytest.mark.parametrize("page", DOCUMENTS)
def test_a_configuration_key_exists(page):
    """Inline code such as `data.eval` or `data.partition=iid data.clients=50`."""
    known = set(key_names())
    for span in code_spans(page):
        for word in span.split():
            key, assigned, _ = word.partition("=")
            file = ROOT / key.replace(".", "/")
            module = file.is_dir() or file.with_suffix(".py").is_file()
            if KEY.fullmatch(key) and not module and not key.endswith((".py", ".json", ".jsonl")):
                assert key in known, f"{page}: {key}"
            elif assigned and KEY.match(key):
                pytest.fail(f"{page}: {word} is no override")


@pytest.mark.parametrize(
    ("page", "program"), [(p, b) for p in DOCUMENTS for b in blocks(p, "python")]
)
def test_a_program_in_a_page_runs(page, program, capsys):
    told = [float(number) for number in re.findall(r"^print.*  # ([\d.]+)", program, re.MULTILINE)]
    assert told, f"{page}: say in a comment what each line prints"
    exec(compile(program, page, "exec"), {})  # noqa: S102 - our own pages
    printed = [float(line) for line in capsys.readouterr().out.split()]
    assert printed == pytest.approx(told, rel=1e-3), f"{page} tells other numbers"


def test_every_command_and_target_is_explained_somewhere():
    written = "".join(text_of(page) for page in DOCUMENTS)
    for name in typer.main.get_command(app).commands:
        assert f"privfed-dpo {name}" in written, f"no page shows privfed-dpo {name}"
    for target in MAKE_TARGETS - {"help"}:
        assert f"make {target}" in written, f"no page names make {target}"
