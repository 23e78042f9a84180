"""Every command of the documentation is run: plans as plans (`--dry-run`), the rest for real on a tiny run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import tiny
from made_films import write_films

from ssl_bench.cli import main
from ssl_bench.training import rate
from ssl_bench.training.pretrain import pretrain

HOME = Path(__file__).parents[2]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md")), HOME / "results" / "claims" / "README.md"]
PLANNED = ("pretrain", "compare", "claims")  # hours of work: their plan is what a test can wait for
NOT_RUN = ("quickstart", "jobs", "data")  # minutes, a queue, the network: their options are looked at only


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line in a fenced block that starts with ssl-bench; comments cut, lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("ssl-bench "):
                    found.append((page.name, line.partition(" #")[0].strip()))
    return found


def test_there_are_commands_to_run() -> None:
    assert len(commands()) > 10
    assert {"README.md", "add-your-method.md", "add-your-protocol.md"} <= {page for page, _ in commands()}


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line"), commands(), ids=[line for _, line in commands()])
def test_command_of_the_documentation(
    page: str, line: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--data pusht" in line:
        pytest.importorskip("gym_pusht", reason="the extra [worlds] is not installed")
        line = line.replace("--data pusht", "--data pusht:40")  # a thousand trajectories are made in minutes
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rate, "LONG", 0.0)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    shutil.copy(HOME / "slurm" / "gpu.toml", tmp_path / "my_cluster.toml")
    (tmp_path / "my_lab").mkdir()
    for about, file in (("method", "idea.py"), ("protocol", "centroid.py")):
        example = (
            (HOME / "docs" / f"add-your-{about}.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
        )
        (tmp_path / "my_lab" / file).write_text(example)
    if films := "#kind=clip" in line:
        write_films(photos := tmp_path / "films")
    run = pretrain(tiny("videomae" if films else "mae", f"folder:{photos}"), tmp_path / "runs")
    if not re.search(r"\b(pretrain|eval|compare)\b", line):  # what reads records needs one
        assert CliRunner().invoke(main.cli, ["eval", "--protocol", "knn"]).exit_code == 0
    for word, value in (("PATH", str(photos)), ("RUN", run.name), ("DIR", str(tmp_path / "out"))):
        line = re.sub(rf"\b{word}\b", value, line)
    words = shlex.split(line)[1:]
    if words[0] in NOT_RUN:
        words.append("--help")
    elif words[0] in PLANNED and "--dry-run" not in words:
        words.append("--dry-run")
    done = CliRunner().invoke(main.cli, words, input="y\n")
    assert done.exit_code == 0, f"{page}: {line}\n{done.output}\n{done.exception}"
