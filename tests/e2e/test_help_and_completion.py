"""What the program says about itself: help that fits a screen, keys, completion of shells."""

import contextlib
import os
import re
import shutil
import subprocess
import sys

import pytest
import typer

from privfed_dpo.cli import app
from privfed_dpo.commands.help_pages import complete_override
from privfed_dpo.config import parse_config
from privfed_dpo.config.loading import key_names
from privfed_dpo.config.reference import key_choices, key_help
from privfed_dpo.errors import ContradictoryConfig
from tests.support.command_line import caller, start_process

LINES, COLUMNS = 26, 80
COMMANDS = tuple(typer.main.get_command(app).commands)


@pytest.fixture
def run(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


# Help


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help_fits_a_screen(run, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "200")
    lines = run(*words, "--help").succeeded().out.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS


def test_help_lists_every_command_with_a_line(run):
    said = run("--help").out
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z]\w+", said, re.MULTILINE), name
    assert "..." not in said.partition("Commands:")[2], "nothing is cut off"
    assert run().refused("Commands:").err.split() == said.split(), "nothing at all asks for help"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_explains_everything_it_takes(run, name):
    said = run(name, "--help").out
    command = typer.main.get_command(app).commands[name]
    for parameter in command.params:
        shown = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.name
        row = re.search(
            rf"^  \[?{re.escape(shown)}\S*( [A-Z]+)?  +(\S.*)$", said, re.IGNORECASE | re.MULTILINE
        )
        assert row, f"{name}: {shown} is not explained"


# Keys


def test_every_key_is_told_with_its_unit_and_default(run):
    words = re.sub(r"\s+", " ", run("keys").succeeded().out)
    keys = key_help()
    assert len(keys) > 40
    for name, default, meaning in keys:
        assert f"{name}={default} {re.sub(chr(10), ' ', meaning)}" in words
    for unit in ("[tokens]", "[pairs]", "[bits]"):
        assert unit in words


def test_a_section_or_a_word_narrows_the_keys(run):
    names = re.findall(r"^([a-z_.]+)=", run("keys", "gossip").out, re.MULTILINE)
    assert names == [name for name in key_names() if name.startswith("gossip.")]
    assert "data.max_length=512" in run("keys", "longest prompt").out
    run("keys", "noise_multiplyer").refused("no key speaks of", "Did you mean")


# Completion


def test_overrides_are_completed_key_by_key():
    assert complete_override("privacy.tar") == ["privacy.target_epsilon="]
    assert set(complete_override("run.")) == {
        f"{name}=" for name in key_names() if name.startswith("run.")
    }
    assert complete_override("nonsense") == []
    assert len(complete_override("")) == len(key_names())


def test_values_are_completed_where_there_are_few():
    assert complete_override("privacy.mod") == [
        f"privacy.mode={mode}" for mode in ("distributed", "local", "user", "gossip", "none")
    ]
    assert complete_override("privacy.mode=l") == ["privacy.mode=local"]
    assert complete_override("secure_agg.enabled=") == [
        "secure_agg.enabled=true",
        "secure_agg.enabled=false",
    ]
    assert complete_override("federation.rounds=4") == [], "any number will do"


@pytest.mark.parametrize(
    "word",
    [f"{name}={value}" for name, values in key_choices().items() for value in values],
)
def test_completed_values_are_valid(word):
    own_data = ("data.train=t.jsonl", "model.base=./b", "privacy.target_epsilon=8")
    with contextlib.suppress(ContradictoryConfig):  # with other keys, but valid by itself
        parse_config("", [*own_data, word])


def completed(*words):
    """What the shell would be offered for the last word."""
    process = start_process(
        None,
        env={
            "_PRIVFED_DPO_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(("privfed-dpo", *words)),
            "COMP_CWORD": str(len(words)),
        },
    )
    out, err = process.communicate()
    assert "Traceback" not in err
    return out.split()


def test_bash_completes_commands_and_keys(monkeypatch):
    assert completed("ver") == ["verify"]
    assert completed("plan", "tiny.yaml", "privacy.target") == ["privacy.target_epsilon="]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_comes_out(tmp_path, shell):
    process = start_process(None, env={"_PRIVFED_DPO_COMPLETE": f"source_{shell}"})
    script, err = process.communicate()
    assert process.returncode == 0, err
    assert "_PRIVFED_DPO_COMPLETE" in script
    if shell == "bash":
        (tmp_path / "script").write_text(script)
        known = "complete -p privfed-dpo"
        done = subprocess.run(
            ["bash", "--norc", "-c", f". ./script && {known}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": os.environ["PATH"]},
        )
        assert done.stdout.strip().endswith("privfed-dpo")


def test_installing_completion_writes_what_the_shell_reads(tmp_path):
    """From a real bash, since the shell is found by looking at the parent process."""
    bash = shutil.which("bash")
    program = (
        "import sys; sys.argv = ['privfed-dpo', '--install-completion']; "
        "from privfed_dpo.cli import main; main()"
    )
    script = f"'{sys.executable}' -c \"{program}\"; echo rc $?"
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={
            "HOME": str(tmp_path),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        },
    )
    assert "rc 0" in done.stdout, done.stderr
    assert "completion installed" in done.stdout
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_PRIVFED_DPO_COMPLETE" in text for text in written)
