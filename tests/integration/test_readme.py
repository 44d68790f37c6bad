"""Every command that the pages show exists and takes the arguments shown."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402

from ccpo.config import CcpoConfig  # noqa: E402

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "recipe/README.md"]
PAGES += sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
CONFIGS = {"recipe/main_ccpo.py": ("config", "ccpo_dyad"), "recipe/main_sft.py": ("sft", "sft")}
TOY = (("--team", "dyad"), ("--task", "last_digit"))  # what commands that take overrides behind -- take by default


def commands(page: str) -> list[str]:
    """Indented lines and `code` that begin a command; a line ending in a backslash goes on."""
    text = re.sub(r"[ \t]*\\\n\s*", " ", (ROOT / page).read_text())
    lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    start = re.compile(r"(?:[A-Z_]+=\S+ )*(?:bash |\.venv/bin/python |python |pip )")
    found = [re.split(r"  +", line)[0] for line in lines if start.match(line)]
    return sorted(set(found))


COMMANDS = sorted({command for page in PAGES for command in commands(page)})


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def test_credit_of_a_table_is_what_the_readme_says():
    (code,) = blocks("README.md")
    assert sum(bool(line.strip()) and not line.startswith("#") for line in code.splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == code.rsplit("# ", 1)[1].strip()


def test_the_team_of_the_docs_is_one(tmp_path):
    (code,) = blocks("docs/teams.md")
    (tmp_path / "my_team.py").write_text(code)
    for rule in ("removal", "resampling", "counterfactual"):
        config = CcpoConfig.from_dict({"team": f"{tmp_path}/my_team.py:Debate", "credit": {"rule": rule}}, 4)
    assert config.plan.first == "pro" and config.plan.rows == 3


def test_the_readmes_dyad_is_the_built_in_one():
    from ccpo.team.dyad import Dyad

    text = (ROOT / "README.md").read_text()
    for line in ('thought = await s.say("think", question=s.question)', f"roles = {Dyad.roles}".replace("'", '"')):
        assert line in text and line in (ROOT / "ccpo" / "team" / "dyad.py").read_text()


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "README.md" or f"]({name})" in index, name


@pytest.mark.parametrize(
    "page", ["README.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")))]
)
def test_a_pages_links_lead_to_files(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        assert re.match(r"https?://", link) or (ROOT / page).parent.joinpath(link).exists(), link
    for named in re.findall(r"(?<![\w./])(?:tests|scripts|ccpo|benchmarks|recipe)/[\w/]+\.(?:py|sh|yaml)\b", text):
        assert (ROOT / named).exists(), named


def test_commands_were_found():
    assert len(COMMANDS) >= 10
    for start in (
        "bash scripts/quickstart.sh",
        "bash scripts/test.sh",
        "bash recipe/run_ccpo_dyad.sh",
        ".venv/bin/python -m data_preprocess.math",
    ):
        assert any(command.startswith(start) for command in COMMANDS), start
    assert any(
        "bash recipe/run_ccpo_dyad.sh data" in command and command.endswith("total_training_steps=24")
        for command in COMMANDS
    ), "it has five lines"


@pytest.fixture(scope="module")
def accepts(in_fork):
    """accepts(program, arguments): its --help lists every option."""

    @functools.cache
    def help_of(program: tuple[str, ...]) -> str:
        done = in_fork([*program, "--help"], ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def check(program: tuple[str, ...], arguments: list[str]) -> None:
        for option in (word for word in arguments if word.startswith("--") and word != "--"):
            assert option.split("=")[0] in help_of(program), f"{program} has no {option}"

    return check


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, compose, accepts, tmp_path):
    words = [whole(word, tmp_path) for word in shlex.split(command)]
    settings = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    program, *arguments = [word for word in words if not re.match(r"[A-Z_]+=", word)]
    if program == "bash" and arguments[0].startswith("recipe/"):
        environment = {**os.environ, **settings, "DRY_RUN": "1"}
        done = subprocess.run(
            ["bash", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        _, entry, *given = shlex.split(done.stdout)
        folder, name = CONFIGS[entry]
        if "--config-name" in given:
            at = given.index("--config-name")
            _, name = given[at : at + 2]
            del given[at : at + 2]
        fits(compose, given, name, folder)
    elif program == "bash":
        subprocess.run(["bash", "-n", arguments[0]], cwd=ROOT, timeout=30, check=True)
        text = (ROOT / arguments[0]).read_text()
        assert all(word in text for word in arguments[1:2] if not word.startswith("-")), (
            f"{arguments[0]} knows no {arguments[1]}"
        )
        if arguments[0] == "scripts/quickstart.sh":
            accepts((str(ROOT / "scripts/quickstart.py"),), arguments[1:])
    elif program == "pip":
        package = re.fullmatch(r"[a-z]+(==([\d.]+|VERSION))?", arguments[-1])
        assert arguments[0] in ("install", "download") and (package or (ROOT / arguments[-1]).exists()), command
    elif arguments[0].startswith("scripts/"):
        accepts((arguments[0],), arguments[1:])
    elif arguments[0] == "-m" and arguments[1].split(".")[0] in ("data_preprocess", "ccpo", "benchmarks"):
        accepts(tuple(arguments[:2]), arguments[2:])
    elif arguments[:2] == ["-m", "pytest"]:
        assert (ROOT / arguments[-1]).exists(), command
    else:
        assert (ROOT / arguments[0]).exists(), command
    if "--" in arguments:
        team, task = (
            arguments[arguments.index(option) + 1] if option in arguments else default for option, default in TOY
        )
        given = arguments[arguments.index("--") + 1 :]
        fits(compose, ["profile=cpu", f"task={task}", *given], f"ccpo_{team}")


def fits(compose, words: list[str], name: str, folder: str = "config") -> None:
    """The configuration knows every key. As in recipe/main_ccpo.py, unknown keys of ours are left to the check."""
    given = (f"++{word}" if word.startswith("ccpo.") else word for word in words)
    config = compose(*given, name=name, folder=folder)
    if "ccpo" in config:
        CcpoConfig.from_dict(OmegaConf.to_container(config.ccpo, resolve=True), config.actor_rollout_ref.rollout.n)


def whole(word: str, folder: Path) -> str:
    """With the file that a page shows, `# my_team.py` on its first line, where the word names one."""
    name = re.search(r"\bmy_\w+\.py\b", word)
    if name is None:
        return word
    (code,) = (code for page in PAGES for code in blocks(page) if code.startswith(f"# {name[0]}\n"))
    (folder / name[0]).write_text(code)
    return word.replace(name[0], str(folder / name[0]))
