"""What others install: built from the sources, put into a fresh environment, and used there."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import privfed_dpo
from tests.architecture.documents import ROOT

pytestmark = pytest.mark.slow

PACKAGES = ("accounting", "secure_agg", "privfed_dpo")
SOURCES = (*PACKAGES, "configs", "pyproject.toml", "README.md", "LICENSE", "tests", "experiments")
VERSION = privfed_dpo.__version__
LEFT_OUT = ("tests", "experiments", "benchmarks", "examples", "docs")


def checked(words, folder, **more):
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        **more,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A source archive, and a wheel made of nothing but it."""
    home = tmp_path_factory.mktemp("packaging")
    sources = home / "sources"
    sources.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, sources / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, sources / name)
    build = "import sys, setuptools.build_meta as b; print(b.build_sdist(sys.argv[1]))"
    checked([sys.executable, "-c", build, home / "dist"], sources)
    (archive,) = (home / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(home / "unpacked", filter="data")
    (unpacked,) = (home / "unpacked").iterdir()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    checked([*pip, "--no-build-isolation", "--wheel-dir", home / "dist", unpacked], home)
    (wheel,) = (home / "dist").glob("*.whl")
    return archive, wheel


def source_files():
    """Everything of the three packages, as it lies in the checkout."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_packages_and_nothing_else(built):
    _, wheel = built
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {name for name in names if ".dist-info/" not in name and ".data/" not in name}
    assert code == source_files()
    for name in ("report/page.html", "report/page.css", "report/model_card.md", "sweep/sweep.html"):
        assert f"privfed_dpo/{name}" in code
    assert {f"{package}/py.typed" for package in PACKAGES} <= code
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    packed = {name.partition("/configs/")[2] for name in names if "/configs/" in name}
    configs = ROOT / "configs"
    assert packed == {p.relative_to(configs).as_posix() for p in configs.rglob("*.yaml")}


def test_the_source_archive_leaves_tests_and_experiments_out(built):
    archive, _ = built
    assert archive.name == f"privfed_dpo-{VERSION}.tar.gz"
    with tarfile.open(archive) as file:
        names = [name.partition("/")[2] for name in file.getnames()]
    assert source_files() | {"README.md", "LICENSE", "pyproject.toml"} <= set(names)
    assert not [name for name in names if name.split("/")[0] in LEFT_OUT]


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A new environment with the wheel; what it depends on is borrowed, not downloaded."""
    _, wheel = built
    home = tmp_path_factory.mktemp("installed")
    checked([sys.executable, "-m", "venv", "--without-pip", home / "env"], home)
    python = home / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    checked([*pip, "--no-deps", "--no-index", wheel], home)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(checked([python, "-c", ask], home).strip())
    (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return home


def in_environment(home, program, *words):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "OMP_NUM_THREADS": "1"}
    return checked([home / "env" / "bin" / program, *words], home, env=environment)


def test_the_program_runs_where_there_is_no_checkout(installed):
    assert in_environment(installed, "privfed-dpo", "--version") == f"privfed-dpo {VERSION}\n"
    where = (
        "import privfed_dpo, accounting, secure_agg as s; print(privfed_dpo.__file__, s.__file__)"
    )
    for path in in_environment(installed, "python", "-c", where).split():
        assert Path(path).is_relative_to(installed), "not the one that is tested elsewhere"
    shipped = installed / "env" / "share" / "privfed-dpo" / "configs"
    tiny = ("data.pairs_per_client=4", "privacy.noise_multiplier=1", "federation.rounds=1")
    planned = in_environment(installed, "privfed-dpo", "plan", shipped / "quickstart.yaml", *tiny)
    assert "Epsilon of the whole run" in planned


def test_a_wrong_path_points_to_the_configs_that_came_along(installed):
    program = installed / "env" / "bin" / "privfed-dpo"
    done = subprocess.run(
        [program, "plan", "configs/quickstart.yaml"],
        cwd=installed,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "300"},
    )
    assert done.returncode == 2
    shipped = installed / "env" / "share" / "privfed-dpo" / "configs" / "quickstart.yaml"
    assert str(shipped) in done.stderr.replace("\n", "")
    assert shipped.is_file()


def test_a_whole_run_needs_nothing_but_what_was_installed(installed):
    shipped = installed / "env" / "share" / "privfed-dpo" / "configs" / "quickstart.yaml"
    tiny = (
        "data.pairs_per_client=4",
        "data.eval_pairs=12",
        "model.warmup_steps=2",
        "privacy.noise_multiplier=1",
        "federation.rounds=1",
        "evaluation.curvature_products=0",
    )
    in_environment(installed, "privfed-dpo", "train", shipped, *tiny, "--run-dir", "run")
    assert (installed / "run" / "report.html").is_file()
    assert (installed / "run" / "adapter" / "README.md").is_file()
    assert "verified:" in in_environment(installed, "privfed-dpo", "verify", "run")
