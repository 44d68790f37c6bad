"""docs/credit.md shows what the rules pay now: its numbers are computed again, for every rule that there is."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from ccpo.config import CcpoConfig
from ccpo.credit.base import CreditConfig
from ccpo.credit.rules import RULES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "credit.md"


@pytest.fixture(scope="module")
def worked():
    return runpy.run_path(str(ROOT / "docs" / "pictures" / "worked.py"))


@pytest.fixture(scope="module")
def choose():
    return runpy.run_path(str(ROOT / "docs" / "pictures" / "choose.py"))


def test_the_page_is_what_its_script_writes(worked):
    page = PAGE.read_text(encoding="utf-8")
    assert worked["written"](page) == page, "stale: .venv/bin/python docs/pictures/worked.py"


def test_the_picture_of_two_sessions_is_drawn_anew(worked):
    assert (PAGE.parent / "pictures" / "two_sessions.svg").read_text(encoding="utf-8") == worked["picture"]()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_an_example_that_a_job_might_run(worked, rule):
    example = worked["EXAMPLES"][rule]
    for settings in (example.settings, example.then):
        CcpoConfig.from_dict({"team": example.team, "credit": {"rule": rule, **settings}}, 4)  # raises where refused
    assert f"\n### `{rule}`\n" in PAGE.read_text(encoding="utf-8")


def test_no_example_is_of_a_rule_that_is_gone(worked):
    assert set(worked["EXAMPLES"]) == set(RULES)


@pytest.mark.parametrize(
    "change", [("<!-- worked: rule removal -->", ""), ("worked: rule removal", "worked: rule shared")]
)
def test_a_page_without_a_part_or_with_one_twice_is_refused(worked, change):
    with pytest.raises(ValueError, match="rule (removal|shared)"):
        worked["written"](PAGE.read_text(encoding="utf-8").replace(*change))


def test_a_number_that_is_changed_by_hand_is_found(worked):
    page = PAGE.read_text(encoding="utf-8")
    changed = page.replace("| A4: 30 and 12, 32 | 0 | +.80 (", "| A4: 30 and 12, 32 | 0 | +.70 (")
    assert changed != page and worked["written"](changed) == page


def test_the_examples_say_what_their_words_say(worked):
    """What the sentences of an example rely on, from the equations by hand."""
    credit, dyad, vote = {}, list(worked["DYAD"]), list(worked["VOTE"])
    for rule, example in worked["EXAMPLES"].items():
        _, result, then = worked["compute"](rule, example)
        credit[rule], credit[f"{rule} then"] = result.credit_SV.tolist(), then.credit_SV.tolist()
    a4, b3, b4 = (dyad.index(label) for label in ("A4", "B3", "B4"))
    assert credit["removal"][a4] == [0, 0] and credit["counterfactual"][b3] == [-1, -1]
    assert credit["likelihood"][a4] == pytest.approx([0.8, -0.9])
    assert credit["likelihood then"][b3][0] == pytest.approx(0.25 * -0.8)
    assert credit["likelihood"][b4][0] < 0 < credit["resampling"][b4][0]
    assert credit["resampling"][a4] == pytest.approx([-2 / 3, -1])
    assert [sum(credits) for credits in credit["shapley"]] == pytest.approx([1, 0, 0.5, 1])
    v2, v3, v4 = (vote.index(label) for label in ("V2", "V3", "V4"))
    assert credit["own_correctness then"][v2] == [1, -1, -1] and credit["own_correctness then"][v3] == [1, 0, -1]
    assert credit["marginal"][v4] == [0, 0, 0] and credit["resampled"][v4] == [0, 0.375, 0.375]
    assert {row[0] for row in credit["marginal"]} == {0}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.75, "+.75"), (-1.123, "-1.12"), (1, "+1"), (0, "0"), (-1e-12, "0"), (0.375 - 1e-13, "+.38"), (-10.5, "-10.50")],
)
def test_numbers(worked, value, text):
    assert worked["number"](value) == text


def test_the_tree_is_drawn_and_told_from_one_source(choose):
    assert (PAGE.parent / "pictures" / "choose.svg").read_text(encoding="utf-8") == choose["picture"]()
    assert choose["words"]() in PAGE.read_text(encoding="utf-8")


def test_the_tree_advises_rules_and_settings_that_exist(choose):
    for way in choose["WAYS"]:
        for advice in (*(step.yes for step in way.steps), way.else_):
            for word in re.findall(r"`([^`]+)`", choose["code"](advice.take)):
                assert word in RULES or hasattr(CreditConfig(), word.split(":")[0]), word


def not_linked(text: str, folder: Path) -> tuple[list[str], int]:
    """(measured numbers of a text that stand on none of the pages that it links to, how many it has)."""
    names = re.findall(r"\]\(([\w./]+\.md)", text)
    linked = [re.sub(r"(?<!\d)0(?=\.\d)", "", (folder / name).read_text(encoding="utf-8")) for name in names]
    numbers = re.findall(r"(?<![\w.])[+-]?\.\d{3}\b(?: \+- \.\d{3})?", text)  # a script's 0.012 is a page's .012
    return [number for number in numbers if not any(number in page for page in linked)], len(numbers)


def test_measured_numbers_stand_on_the_pages_that_they_link_to():
    page = PAGE.read_text(encoding="utf-8")
    checked = 0
    for bullet in re.split(r"\n *- ", page[page.index("\n## Which rule to take") :]):
        missing, count = not_linked(bullet, PAGE.parent)
        assert not missing, bullet
        checked += count
    assert checked > 30


def test_the_readmes_numbers_of_credit_stand_on_the_pages_that_it_links_to():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Where credit per role decides\n")[2].partition("\n## ")[0]
    missing, count = not_linked(section, ROOT)
    assert not missing and count >= 8


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


def test_links_lead_to_headings():
    links = re.findall(r"\]\(([\w./]*)#([^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert len(links) > 20
    for name, anchor in links:
        assert anchor in anchors(PAGE.parent / name if name else PAGE), f"{name}#{anchor}"
