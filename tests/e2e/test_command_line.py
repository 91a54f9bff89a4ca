"""Mistakes on the command line: exit code 2, sentences, no traceback."""

import json

import pytest

from tests.support import preference_files as files
from tests.support.command_line import caller, own_data, write_inputs


@pytest.fixture
def run(capsys, monkeypatch):
    return caller(capsys, monkeypatch)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("command-line"))


# A config that cannot be read


def test_no_such_config(run, tmp_path):
    run("plan", tmp_path / "nowhere.yaml").refused(
        "cannot read the config", "nowhere.yaml", "No such file", "configs/quickstart.yaml"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe\x00binary", "is not UTF-8 text"),
        (b"data: [1", "is not valid YAML"),
        (b"- a list", "must be a mapping of sections, not a list"),
        (b"1: 2", "a key must be a name, not 1"),
        (b"data: {1: 2}", "a key must be a name, not 1"),
        (b"? [a, b]\n: 1", "a key must be a name"),
        (b"data: {clients: 5}\ndata: {clients: 6}", "the key 'data' is given twice"),
        (b"!!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_a_config_that_is_none(run, tmp_path, content, sentence):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    run("plan", path).refused(sentence)


def test_a_folder_instead_of_a_config(run, tmp_path):
    run("plan", tmp_path).refused("cannot read the config", "Is a directory")


# Keys and values


def test_an_unknown_key_names_its_neighbour(run, home):
    ended = run("plan", home / "tiny.yaml", "privacy.target_epsilom=3")
    ended.refused("unknown key privacy.target_epsilom; did you mean privacy.target_epsilon?")
    assert "problems" not in ended.err, "one problem is no list"


def test_all_mistakes_are_told_at_once(run, home):
    ended = run(
        "train",
        home / "tiny.yaml",
        "federatoin.rounds=2",
        "model.adapter.rnk=3",
        "data.clients=many",
        "privacy.sample_rate=1.5",
        "privacy.mode=local",
        "federation.rounds",
        "dpo.loss=hinge",
        "dpo.label_smoothing=0.1",
    ).refused(
        "7 problems",
        "unknown key federatoin; did you mean federation?",
        "unknown key model.adapter.rnk; did you mean model.adapter.rank?",
        "data.clients: input should be a valid integer, not 'many'",
        "privacy.sample_rate: input should be less than or equal to 1, not 1.5",
        "'federation.rounds' is not an override of the form section.key=value",
        "dpo.label_smoothing has no meaning for dpo.loss=hinge",
        "dpo.loss=hinge has a kink",
        "configs/reference.yaml lists every key",
    )
    assert "needs data.clients" not in ended.err, "a wrong value is not a missing one"


def test_numbers_that_no_plan_can_keep(run, home):
    run("plan", home / "tiny.yaml", "privacy.dropout_tolerance=3").refused(
        "privacy.dropout_tolerance=3", "two different survivor sets could both be signed"
    )
    run("plan", home / "tiny.yaml", "privacy.target_epsilon=1e-13").refused(
        "no noise meets epsilon"
    )
    run("plan", home / "tiny.yaml", "privacy.delta=0.5").refused(
        "privacy.delta=0.5 is not below 1 /", "published whole", "Lower privacy.delta"
    )
    run("plan", home / "tiny.yaml", "privacy.noise_multiplier=0.05").refused(
        "a first round costs epsilon", "Raise privacy.noise_multiplier"
    )
    run("plan", home / "tiny.yaml", "run.threads=100000").refused(
        "run.threads: input should be less than or equal to 1024"
    )


def test_two_columns_may_not_be_one(run, home):
    run("plan", home / "tiny.yaml", "data.columns.prompt=chosen").refused(
        "data.columns.prompt and data.columns.chosen name the same column, 'chosen'"
    )


def test_a_cache_that_cannot_be_written_to_is_named_before_anything_is_spent(run, home, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    ended = run("train", home / "tiny.yaml", f"run.cache_dir={tmp_path / 'file'}")
    ended.refused("nothing can be written to", "Set run.cache_dir to a folder")
    assert not list(home.rglob("ledger.jsonl"))


# Data and model that cannot be used


def test_no_such_data_file(run, home):
    run("plan", home / "tiny.yaml", "data.train=nowhere.jsonl", "model.base=./m").refused(
        "nowhere.jsonl: no such file", "relative to the folder the command is run in"
    )


def test_bad_rows_are_named_by_their_lines(run, home, tmp_path):
    rows = files.preference_rows(users=2, per_user=2)
    rows[1]["rejected"] = rows[1]["chosen"]
    del rows[3]["chosen"]
    path = files.write_jsonl(tmp_path / "pairs.jsonl", rows)
    with path.open("a") as file:
        file.write("{not json\n")
    run("plan", home / "tiny.yaml", f"data.train={path}", "model.base=./m").refused(
        f"{path}: 3 of 5 rows cannot be used",
        "row 2: chosen and rejected are the same",
        "row 4: column 'chosen' is missing (columns present: prompt, rejected, topic, user)",
        "row 5: not JSON",
    )


def test_columns_of_other_names_are_named_in_the_config(run, home, tmp_path):
    named = {"prompt": "question", "chosen": "better", "rejected": "worse", "user": "worker"}
    rows = [
        {named.get(key, key): value for key, value in row.items()}
        for row in files.preference_rows(users=5, per_user=4)
    ]
    path = files.write_jsonl(tmp_path / "pairs.jsonl", rows)
    told = own_data(home, f"data.train={path}")
    run("plan", *told).refused("column 'chosen' is missing", "named by data.columns")
    names = [f"data.columns.{key}={name}" for key, name in named.items()]
    ended = run("plan", *told, *names, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["pairs_total"] == 20


def test_no_such_model(run, home, tmp_path):
    ended = run("train", *own_data(home, f"model.base={tmp_path / 'nowhere'}"))
    ended.refused(f"'{tmp_path / 'nowhere'}'", "there is no such folder", "hub id")


def test_a_hub_id_that_cannot_be_reached(run, home, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    run("plan", *own_data(home, "model.base=nobody/nothing")).refused(
        "'nobody/nothing'", "a hub id that this machine can reach"
    )


def test_a_device_that_is_not_there(run, home, tmp_path):
    ended = run("train", *own_data(home, "model.device=abacus"), "--run-dir", tmp_path / "run")
    ended.refused("'abacus' is not a device", "cpu, cuda, cuda:0 or auto")


# Run folders


def test_a_run_folder_in_use_is_left_alone(run, home, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    run("train", home / "tiny.yaml", "--run-dir", folder).refused(
        f"run.dir={folder} exists and is not an empty folder", "or empty this one"
    )
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_run_folder_inside_a_file(run, home, tmp_path):
    (tmp_path / "file").write_text("")
    run("train", home / "tiny.yaml", "--run-dir", tmp_path / "file" / "run").refused(
        f"{tmp_path / 'file'} is no folder that can be written to"
    )


@pytest.mark.parametrize("command", ["resume", "verify", "report"])
def test_nothing_to_work_on(run, tmp_path, command):
    ended = run(command, tmp_path / "nowhere").refused(str(tmp_path / "nowhere"))
    assert "train" in ended.err, "it says where run folders come from"


# Usage


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plan"], "Missing argument"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["plan", "x.yaml", "--jsno"], "No such option"),
    ],
)
def test_usage_errors(run, arguments, sentence):
    run(*arguments).refused(sentence)
