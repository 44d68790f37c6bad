"""The page about a team, before anything is trained."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ccpo.credit.rules import RULES

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "describe_team.py"
DEBATE = """\
from ccpo.team import Team


class Debate(Team):
    roles = ("a", "judge")
    samples = {"judge": ("more", "enough")}
    prompts = {"mine": {"a": {"user": "{question}"}, "judge": {"user": "{question} {said}"}}}

    async def play(self, s):
        said = None
        for _ in range(2):
            said = await s.say("a", question=s.question, said=said)
            verdict = await s.say("judge", said=said)
            if verdict is None or verdict.text == "enough":
                break
        return s.answer(said)
"""


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("describe_team")


@pytest.fixture
def describe(script, capsys):
    """describe("dyad", "-n", "4") -> (status, page, error)"""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = script.main(arguments)
        except SystemExit as left:
            status = left.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


def page_of(describe, *arguments: str) -> str:
    status, page, error = describe(*arguments)
    assert (status, error) == (0, "")
    return page


def table(page: str) -> dict[str, list[str]]:
    """rule -> rows, replayed, unbiased"""
    return {
        line.split()[0]: line.split()[1:4] for line in page.splitlines() if re.match(r"\w+ +\S+ +\S+  (yes|no) ", line)
    }


def matrix(page: str) -> list[str]:
    lines = page.splitlines()
    start = lines.index("Who hears whom") + 1
    return lines[start : lines.index("", start)]


def test_the_dyad(describe):
    page = page_of(describe, "dyad")
    assert page.startswith("Dyad: 2 roles, 2 turns a session\n")
    assert matrix(page) == [
        "           question  1",
        "1  think      x      .",
        "2  reason     x      x  => answer",
    ]
    assert table(page) == {
        "counterfactual": ["2", "1/4", "yes"],
        "removal": ["2", "1/4", "yes"],
        "resampling": ["2", "1", "yes"],
        "likelihood": ["2", "0", "no"],
        "shared": ["2", "0", "yes"],
        "shared_history": ["2", "0", "yes"],
        "shrinkage": ["2", "0", "yes"],
        "random_reward": ["2", "0", "no"],
        "paper_v1": ["2", "1", "no"],
        "event_v2": ["2", "1", "no"],
    }
    assert "resampled        it reads the ballots of a plurality, and this team's outcome is one answer" in page
    assert "Longest prompts of the set math" in page and "  user       <question>" in page and "<thought>" in page
    assert "Scores the reference answer behind 9/8 prompts a session, at most." in " ".join(page.split())


def test_fractions_are_exact_for_the_number_of_sessions(describe):
    assert table(page_of(describe, "dyad", "-n", "3"))["removal"] == ["2", "2/3", "yes"]
    assert table(page_of(describe, "dyad", "-n", "2"))["counterfactual"] == ["2", "1", "yes"]
    assert table(page_of(describe, f"{ROOT}/examples/panel.py:Panel"))["removal"] == ["4", "3/4", "yes"]
    chain = table(page_of(describe, f"{ROOT}/examples/chain.py:Chain", "-n", "3"))
    assert (chain["removal"], chain["resampling"]) == (["3", "5/3", "yes"], ["3", "3", "yes"])


def test_a_deliberation_with_settings(describe):
    page = page_of(describe, "vote", "--kwargs", "n_voters=3", "rounds=2", "tie=fail", "--prompts", "toy")
    assert page.startswith("Vote (n_voters=3, rounds=2, tie=fail): 3 roles, 6 turns a session\n")
    assert matrix(page) == [
        "                    question  1  2  3",
        "1  voter_0, turn 1     x      .  .  .",
        "2  voter_1, turn 1     x      .  .  .",
        "3  voter_2, turn 1     x      .  .  .",
        "4  voter_0, turn 2     x      .  x  x  => plurality (fail)",
        "5  voter_1, turn 2     x      x  .  x  => plurality (fail)",
        "6  voter_2, turn 2     x      x  x  .  => plurality (fail)",
    ]
    assert table(page)["removal"] == ["6", "6", "yes"]
    assert (
        "voter_0, voter_1, voter_2\n  system     Vote.\n  user       <question>\n             Votes: <others>" in page
    )
    assert "roles that answer\n                 independently" in page


@pytest.mark.parametrize(
    "arguments", [("vote", "--kwargs", "n_voters=12", "rounds=3"), ("vote", "--kwargs", "n_voters=64"), ("dyad",)]
)
def test_pages_are_readable_at_100_columns(describe, arguments):
    page = page_of(describe, *arguments)
    assert max(map(len, page.splitlines())) <= 100
    assert not any(line != line.rstrip() for line in page.splitlines())


def test_a_wide_matrix_names_ranges(describe):
    lines = matrix(page_of(describe, "vote", "--kwargs", "n_voters=12", "rounds=2"))
    assert lines[0].endswith("question  turns")
    assert lines[14].startswith("14  voter_1, turn 2") and "  1, 3-12  => plurality (expected)" in lines[14]


def test_a_file_with_samples_and_a_missing_template(describe, tmp_path):
    (tmp_path / "debate.py").write_text(DEBATE)
    page = page_of(describe, f"{tmp_path}/debate.py:Debate")
    assert "Debate: 2 roles, 4 turns a session" in page and "Longest prompts of the set mine" in page
    lines = matrix(page)
    assert [line.rsplit("=>")[0].split("turn")[0].split()[1] for line in lines[1:]] == ["a,", "judge,", "a,", "judge,"]
    assert lines[2].split()[4] == ".", "the judge does not hear the question"
    missing = " ".join(page[page.index("missing:") :].split())
    assert (
        "no template for a that hears {question, said}" in missing
        and "no template for judge that hears {said}" in missing
    )


def test_prompts_of_another_file(describe, tmp_path):
    (tmp_path / "mine.yaml").write_text("one: {'*': [{user: 'Hey {question}'}, {user: 'Hey {question} {thought}'}]}")
    assert "  user       Hey <question> <thought>" in page_of(describe, "dyad", "--prompts", f"{tmp_path}/mine.yaml")


def test_a_team_without_prompts(describe, tmp_path):
    (tmp_path / "debate.py").write_text(re.sub(r"    prompts = .*\n", "", DEBATE))
    assert "Debate has no prompts of its own: give --prompts" in page_of(describe, f"{tmp_path}/debate.py:Debate")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dyed"], "'dyed' names no team: did you mean 'dyad'?"),
        (["nope.py:A"], "the team's file nope.py does not exist"),
        (
            ["vote", "--kwargs", "n_voter=3", "tie=3"],
            "did you mean ccpo.team_kwargs.n_voters?; ccpo.team_kwargs.tie is 3: set text",
        ),
        (["vote", "--kwargs", "n_voters=1"], "one voter is no vote"),
        (["vote", "--kwargs", "n_voters"], "'n_voters' is no name=value"),
        (["vote", "--kwargs", "tie=[a"], "'tie=[a' has no readable value"),
        (["dyad", "--prompts", "maths"], "did you mean 'math'?"),
        (["dyad", "-n", "0"], "set at least 1"),
        ([], "the following arguments are required: TEAM"),
    ],
)
def test_errors_are_one_line(describe, arguments, words):
    status, page, error = describe(*arguments)
    assert (status, page) == (1, "")
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error


def test_the_command_starts_without_a_model_and_at_once(tmp_path):
    code = (
        f"import atexit, runpy, sys; sys.argv = ['describe_team.py', 'dyad']; heavy = {{'torch', 'transformers', 'verl', 'sympy'}}\n"
        f"atexit.register(lambda: print(*heavy & set(sys.modules), file=sys.stderr))\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (0, ""), done.stderr
    assert done.stdout.startswith("Dyad: ")


def test_help(describe):
    status, page, _ = describe("--help")
    assert status == 0 and "--kwargs" in page and "path/to/file.py:Class" in page


def test_a_page_takes_little_time(describe):
    started = time.process_time()
    page_of(describe, "vote", "--kwargs", "n_voters=10", "rounds=2")
    assert time.process_time() - started < 2


def test_the_documents_costs_are_these(describe):
    """docs/credit.md, "What it costs": a rule that is new, gone or dearer needs another line there."""
    text = (ROOT / "docs" / "credit.md").read_text()
    section = text[text.index("## What it costs") : text.index("## Which rule to take")]
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|", section, re.MULTILINE)}
    costs = [table(page_of(describe, team, "-n", "8")) for team in ("dyad", "vote")]
    assert rows == {rule: tuple(found[rule][1] if rule in found else "-" for found in costs) for rule in RULES}


def test_what_removal_says_of_the_last_speaker_holds_for_a_vote(describe):
    """Without the last of three voters there is still an answer: only who gives the one answer is worth R."""
    said = " ".join(page_of(describe, "vote").split())
    assert "last speaker's is worth 0" not in said
    assert "Where the outcome is one answer, its speaker's removal is worth 0" in said
