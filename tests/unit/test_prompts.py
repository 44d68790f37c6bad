"""Templates: which one is used for what a role hears, how it is filled, and which are refused."""

from __future__ import annotations

import hashlib
import json

import pytest

from ccpo.prompts import PromptError, Prompts, fields_of, matching, render, with_persona
from ccpo.team.dyad import Dyad
from ccpo.team.load import prompt_sets, prompts_of
from ccpo.team.vote import Vote


def parse(data) -> Prompts:
    return Prompts.parse("mine", data)


def user(text):
    return [{"role": "user", "content": text}]


def test_a_template_is_a_mapping_or_a_list_of_messages():
    as_mapping = {"system": "S", "user": "{q}", "assistant": "A"}
    as_list = [{"role": chat, "content": text} for chat, text in as_mapping.items()]
    for written in (as_mapping, as_list, [as_mapping], [as_list]):
        assert parse({"a": written}).messages("a", {"q": "x"}) == [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "A"},
        ]


def test_the_template_with_exactly_the_fields_is_used():
    prompts = parse({"a": [{"user": "{q}"}, {"user": "{q} {r}"}, {"user": "nothing"}]})
    assert prompts.messages("a", {"r": "2", "q": "1"}) == user("1 2")
    assert prompts.messages("a", {"q": "1"}) == user("1")
    assert prompts.messages("a", {}) == user("nothing")
    with pytest.raises(
        PromptError, match=r"prompts 'mine' have no template for a that hears \{r\}: .* \{q\}; \{q, r\}; \{\}"
    ):
        prompts.messages("a", {"r": "2"})


def test_a_name_wins_over_a_pattern_wherever_it_stands():
    for order in (("v_*", "v_1"), ("v_1", "v_*")):
        prompts = parse({key: {"user": key + " {q}"} for key in order})
        assert [prompts.messages(role, {"q": ""}) for role in ("v_0", "v_1")] == [user("v_* "), user("v_1 ")]


def test_the_first_pattern_that_fits_is_taken_and_case_counts():
    table = {"v_*": 1, "*": 2}
    assert [matching(table, role) for role in ("v_0", "x", "V_0")] == [1, 2, 2]
    assert matching({"v_*": 1}, "x") is None
    assert matching({"v[0]": 1}, "v0") is None, "only * makes a pattern"


def test_values_are_inserted_verbatim_and_doubled_braces_are_text():
    prompts = parse({"a": {"user": "\\boxed{{}} {q} {q}"}})
    assert prompts.messages("a", {"q": "{r} {} {{}} }"}) == user("\\boxed{} {r} {} {{}} } {r} {} {{}} }")


def test_a_missing_field_is_named():
    with pytest.raises(KeyError, match="template needs the field 'r', got \\['q'\\]"):
        render((("user", "{q} {r}"),), q="1")


@pytest.mark.parametrize("text", ["{0}", "{}", "{a.b}", "{a b}", "\\frac{1}{2}", "{", "}", "\\boxed{d}{"])
def test_braces_that_are_no_fields_are_refused_with_what_to_write(text):
    with pytest.raises(PromptError, match=r"prompts 'mine', role a: .*braces that are meant as text are doubled"):
        parse({"a": {"user": text}})


def test_fields_are_collected_over_all_messages():
    assert fields_of((("system", "{a}"), ("user", "{b} {a}"))) == {"a", "b"}


def test_two_templates_with_the_same_fields_are_refused():
    with pytest.raises(PromptError, match="role a: two templates have the fields q; which one is meant?"):
        parse({"a": [{"user": "{q}"}, {"system": "S", "user": "{q}"}]})


@pytest.mark.parametrize("data", [None, {}, [], "math", 3])
def test_what_is_no_set_is_refused(data):
    with pytest.raises(PromptError, match="they must map roles to templates"):
        parse(data)


@pytest.mark.parametrize(
    "template",
    [
        None,
        "text",
        3,
        {},
        [[]],
        {"user": 3},
        {"system": None},
        {"human": "x"},
        ["x"],
        [["user", "x"]],
        [{"role": "user"}],
    ],
)
def test_what_is_no_template_is_refused(template):
    with pytest.raises(PromptError, match="role a: a template is"):
        parse({"a": template})


def test_a_persona_is_added_to_the_system_message_which_is_made_if_there_is_none():
    both = [{"role": "system", "content": "S."}, {"role": "user", "content": "u"}]
    assert with_persona(both, "Be bold.") == [{"role": "system", "content": "S. Be bold."}, both[1]]
    assert with_persona(both[1:], "Be bold.") == [{"role": "system", "content": "Be bold."}, both[1]]
    assert with_persona(both, "") is both
    assert both[0]["content"] == "S.", "the template stays as it was"


def test_the_built_in_texts_are_those_that_were_measured():
    """Numbers of earlier runs are about these messages: who changes one has another experiment, and says so here."""
    asked = {
        Dyad: (("think", ("question",)), ("reason", ("question", "thought")), ("reason", ("question",))),
        Vote: (("voter_0", ("question",)), ("voter_2", ("question", "others"))),
    }
    messages = [
        prompts_of(team, name).messages(role, {field: f"<{field}>" for field in fields})
        for team, cases in asked.items()
        for name in prompt_sets(team)
        for role, fields in cases
    ]
    assert len(messages) == 17
    assert hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:16] == "ca28ece14bc0f6c0"
