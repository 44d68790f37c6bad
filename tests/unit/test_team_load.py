"""A team by name, package path or file, and its prompts; every reference that names none says what to set."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ccpo.config import CcpoConfig
from ccpo.prompts import PromptError
from ccpo.team import Team
from ccpo.team.dyad import Dyad
from ccpo.team.load import BUILT_IN, prompt_sets, prompts_of, settings_class, team_class
from ccpo.team.session import TeamError
from ccpo.team.vote import Vote
from ccpo.user_code import absolute

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM = """\
from ccpo.team import Team


class Pair(Team):
    roles = ("a", "b")
    {line}

    async def play(self, s):
        said = await s.say("a", question=s.question)
        return s.answer(await s.say("b", question=s.question, said=said))
"""
SETS = """\
plain:
  a: {user: "{question}"}
  b: [{user: "{question} {said}"}, {user: "{question}"}]
loud:
  "*": [{user: "{question}!"}, {user: "{question} {said}!"}]
"""
Q = {"question": "q"}


def write(folder: Path, line: str = "", name: str = "pair.py", text: str = PROGRAM) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text.replace("{line}", line))
    return f"{folder / name}:Pair"


def refused(reference: str) -> str:
    with pytest.raises(TeamError) as caught:
        team_class(reference)
    return str(caught.value)


# --------------------------------------------------------------------------------------------------------------- classes


def test_built_in_teams_have_names():
    assert {name: team_class(name) for name in BUILT_IN} == {"dyad": Dyad, "vote": Vote}


def test_references_for_another_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for same in ("dyad", "math", "a.b:C", "my.py", "yaml", ""):
        assert absolute(same) == same
    for own in ("t.py:C", "p.yaml:short", "p.yml", "d/p.yaml"):
        assert absolute(own) == f"{tmp_path}/{own}"


def test_a_package_path():
    assert team_class("ccpo.team.vote:Vote") is Vote


def test_a_file_is_imported_once_and_anew_when_it_changed(tmp_path):
    reference = write(tmp_path)
    first = team_class(reference)
    assert issubclass(first, Team) and first.__name__ == "Pair"
    assert team_class(reference) is first
    write(tmp_path, "max_turns = 9")
    assert team_class(reference).max_turns == 9


def test_two_files_of_one_name_are_two_modules(tmp_path):
    one, other = write(tmp_path / "one", "max_turns = 1"), write(tmp_path / "other", "max_turns = 2")
    assert [team_class(reference).max_turns for reference in (one, other, one)] == [1, 2, 1]
    (tmp_path / "one" / "pair.yaml").write_text(SETS)
    assert (list(prompt_sets(team_class(one))), prompt_sets(team_class(other))) == (["plain", "loud"], {})


def test_two_files_of_one_name_and_one_content_have_their_own_prompts(tmp_path):
    one, other = write(tmp_path / "one"), write(tmp_path / "other")
    (tmp_path / "other" / "pair.yaml").write_text(SETS)
    assert prompt_sets(team_class(one)) == {}
    assert list(prompt_sets(team_class(other))) == ["plain", "loud"]
    assert prompt_sets(team_class(one)) == {}


def test_a_file_may_import_its_neighbours_and_leaves_the_path_as_it_was(tmp_path):
    (tmp_path / "neighbour_of_pair.py").write_text("TURNS = 5\n")
    before = list(sys.path)
    try:
        team = team_class(
            write(tmp_path, text="from neighbour_of_pair import TURNS\n" + PROGRAM, line="max_turns = TURNS")
        )
        assert team.max_turns == 5 and sys.path == before
    finally:
        sys.modules.pop("neighbour_of_pair", None)


def test_a_relative_file_is_seen_from_the_working_folder(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert team_class("pair.py:Pair").roles == ("a", "b")
    assert absolute("pair.py:Pair") == f"{tmp_path.resolve() / 'pair.py'}:Pair"
    assert (absolute("dyad"), absolute("ccpo.team.vote:Vote")) == ("dyad", "ccpo.team.vote:Vote")


@pytest.mark.parametrize(
    "reference", ["dyed", "votes", "", "pair.py", "ccpo.team.vote", ":Debate", "ccpo.team.vote:", "ccpo.team.vote:a b"]
)
def test_what_is_no_reference(reference):
    text = refused(reference)
    assert (
        f"{reference!r} names no team" in text
        and "set dyad, vote, package.module:Class, or path/to/file.py:Class" in text
    )
    assert ("did you mean 'dyad'" in text) is (reference == "dyed")
    assert ("did you mean 'vote'" in text) is (reference == "votes")


def test_a_file_that_does_not_exist(tmp_path):
    assert f"the team's file {tmp_path}/nope.py does not exist" in refused(f"{tmp_path}/nope.py:Pair")


def test_a_module_that_does_not_exist():
    text = refused("no_such_package.teams:Pair")
    assert "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'" in text
    assert "or on PYTHONPATH" in text


def test_a_syntax_error_has_its_line(tmp_path):
    text = refused(write(tmp_path, text="x = 1\ny = (\n"))
    assert "cannot be imported: SyntaxError" in text and "line 2" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [("x = 1\ny = 1 / 0\n", "ZeroDivisionError: division by zero (line 2)"), ("exit(3)\n", "SystemExit: 3 (line 1)")],
)
def test_an_error_while_it_is_imported_has_its_line(text, words, tmp_path):
    reference = write(tmp_path, text=text)
    assert words in refused(reference)
    assert words in refused(reference), "nothing half imported is kept"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Pear", "Pear does not exist in"),
        ("Helper", "Helper is no subclass of ccpo.team.Team in"),
        ("number", "number is no subclass of ccpo.team.Team in"),
    ],
)
def test_a_name_that_is_no_team_is_refused_with_the_teams_that_are_there(name, words, tmp_path):
    reference = write(tmp_path, text=PROGRAM + "\n\nclass Helper:\n    pass\n\n\nnumber = 3\n")
    text = refused(reference.replace(":Pair", f":{name}"))
    assert words in text and text.endswith("teams there: Pair")


def test_a_module_without_teams_says_so():
    assert refused("ccpo.plurality:Vote").endswith("teams there: none")


@pytest.mark.parametrize(
    "play", ["", "def play(self, s):\n        return None", "async def play(self, s):\n        yield s"]
)
def test_a_team_without_a_program(play, tmp_path):
    text = f"from ccpo.team import Team\n\n\nclass Pair(Team):\n    roles = ('a',)\n\n    {play}\n"
    assert "Pair in" in (said := refused(write(tmp_path, text=text)))
    assert "has no program: define `async def play(self, s)`" in said


def test_settings_are_the_fields_of_a_dataclass():
    assert settings_class(Dyad) is Dyad and settings_class(team_class(f"{EXAMPLES}/panel.py:Panel")) is None


# --------------------------------------------------------------------------------------------------------------- prompts


def test_prompts_in_the_class_win_over_those_beside_it(tmp_path):
    reference = write(tmp_path, "prompts = {'own': {'*': {'user': 'own {question}'}}}")
    (tmp_path / "pair.yaml").write_text(SETS)
    assert prompts_of(team_class(reference), "own").messages("a", Q) == [{"role": "user", "content": "own q"}]
    with pytest.raises(PromptError, match="Pair has the prompts own;"):
        prompts_of(team_class(reference), "plain")


def test_prompts_beside_the_file(tmp_path):
    reference = write(tmp_path)
    (tmp_path / "pair.yaml").write_text(SETS)
    team = team_class(reference)
    assert prompts_of(team, "plain").messages("b", Q | {"said": "s"}) == [{"role": "user", "content": "q s"}]
    assert prompts_of(team, "loud").messages("b", Q) == [{"role": "user", "content": "q!"}]


def test_a_team_made_from_another_keeps_its_prompts(tmp_path):
    text = "from ccpo.team.dyad import Dyad\n\n\nclass Pair(Dyad):\n    pass\n"
    assert list(prompt_sets(team_class(write(tmp_path, text=text)))) == ["math", "choice", "toy"]
    (tmp_path / "pair.yaml").write_text(SETS)
    assert list(prompt_sets(team_class(write(tmp_path, text=text)))) == ["plain", "loud"]


def test_prompts_of_another_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SETS)
    assert prompts_of(Dyad, f"{path}:loud").messages("think", Q) == [{"role": "user", "content": "q!"}]
    config = CcpoConfig(team=write(tmp_path), prompts=f"{path}:plain")
    assert config.problems(4) == []
    assert config.prompt_sets["a"].messages("a", Q) == [{"role": "user", "content": "q"}]


def test_the_only_set_of_a_file_needs_no_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("one: {'*': {user: '{question}?'}}")
    assert prompts_of(Dyad, str(path)).messages("think", Q) == [{"role": "user", "content": "q?"}]
    path.write_text(SETS)
    with pytest.raises(PromptError, match="Dyad has the prompts plain, loud"):
        prompts_of(Dyad, str(path))


def test_prompts_that_are_given_whole():
    prompts = prompts_of(Dyad, {"think": {"system": "Be brief.", "user": "{question}"}})
    assert prompts.messages("think", Q) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "q"},
    ]


@pytest.mark.parametrize(
    ("content", "chosen", "words"),
    [
        (SETS, "lod", "did you mean 'loud'?"),
        (SETS, "", "ccpo.prompts is '': Pair has the prompts plain, loud; choose one"),
        ("- a\n- b", "plain", "must map names to sets of prompts"),
        ("a: [", "plain", "is no readable YAML"),
        ("plain: 3", "plain", "prompts 'plain' are 3: they must map roles to templates"),
    ],
)
def test_prompts_that_cannot_be_used(content, chosen, words, tmp_path):
    reference = write(tmp_path)
    (tmp_path / "pair.yaml").write_text(content)
    with pytest.raises(PromptError) as caught:
        prompts_of(team_class(reference), chosen)
    assert words in str(caught.value)


def test_a_file_of_prompts_that_does_not_exist(tmp_path):
    with pytest.raises(PromptError, match="there is no file"):
        prompts_of(Dyad, f"{tmp_path}/nope.yaml:math")


def test_a_file_of_prompts_is_read_again_when_it_changed(tmp_path):
    import os

    path = tmp_path / "mine.yaml"
    for number, text in enumerate(("one", "two")):
        path.write_text(f"set: {{'*': {{user: '{text} {{question}}'}}}}")
        os.utime(path, (number, number))
        assert prompts_of(Dyad, str(path)).messages("think", Q)[0]["content"] == f"{text} q"
