"""The page of scripts/report.py: whole in itself, bounded, and harmless whatever a model said."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from sample_runs import CHAIN, DYAD, SOURCE, TIMED, VOTES, train, val, write

from ccpo.report import page as report_page
from ccpo.report.charts import of_run
from ccpo.report.logged import ReportError
from ccpo.report.means import t_interval
from ccpo.report.page import page
from ccpo.report.runs import Run, groups, read_run
from ccpo.run.folder import JOB, SESSIONS
from ccpo.run.session_log import SessionLog
from ccpo.run.texts import without_texts

EVIL = "</script><img src=x onerror=\"document.title='hacked'\"><!--<script>\u2028\u2029\0\ud800 {{ 7*7 }} &lt; ]]>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def session(step=0, kind="val", index=0, value=1.0, without=None, text="1+1=2", **others):
    replays = [
        {
            "how": "remove",
            "role": role,
            "name": f"without_{role}",
            "value": worth,
            "turns": [{"role": "b", "text": "alone"}],
        }
        for role, worth in (without or {}).items()
    ]
    return {
        **{
            "step": step,
            "kind": kind,
            "source": SOURCE,
            "index": index,
            "session": 0,
            "question": f"Question {index}?",
        },
        **{"truth": "2", "value": value, "turns": [{"role": "a", "text": text, "answer": "2", "reward": value}]},
        **{"replays": replays, "credit": None, "advantage": None},
        **others,
    }


LIKELY = {"before": [0.125], "behind": 0.375, "answer_advantage": None}
SAID = [
    *(
        session(step, index=i, value=float(step > 0 or i), without={"a": 1.0 - i, "reason": 0.0})
        for step in (0, 8)
        for i in (0, 1)
    ),
    session(3, "train", 5, 0.0, credit={"a": 0.25}, advantage={"a": -0.5}, likelihood=LIKELY),
    session(8, index=2, value=0.0, text=EVIL, question=EVIL, truth=EVIL, answer=EVIL),
]


def run(entries, sessions=(), name="a run", label="label", kind="kind", seed="0"):
    return Run(name, entries, list(sessions), label, kind, seed)


class Elements(HTMLParser):
    """Every element with its attributes, and the text of the scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.texts: dict[str, str] = {}
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self._in = f"{tag} {dict(attributes).get('id', len(self.found))}" if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, text):
        if self._in:
            self.texts[self._in] = self.texts.get(self._in, "") + text

    @property
    def data(self) -> dict:
        return json.loads(self.texts["script data"])


def test_what_a_model_said_is_data_and_nothing_else():
    quiet, evil = (Elements(page([run(DYAD, said, name=name)], name)) for said, name in ((SAID[:5], "x"), (SAID, EVIL)))
    assert [tag for tag, _ in quiet.found] == [tag for tag, _ in evil.found], "no element came of a text"
    (shown,) = (one for one in evil.data["runs"][0]["sessions"] if one["index"] == 2)
    assert shown["question"] == shown["turns"][0]["text"] == shown["truth"] == shown["answer"] == EVIL
    assert not re.search(r"[<>&]|[^\x20-\x7e]", evil.texts["script data"])


def test_nothing_is_loaded_from_anywhere():
    found = Elements(page([run(DYAD, SAID)], "x"))
    loading = [value for _, attributes in found.found for name, value in attributes.items() if name in ("src", "href")]
    assert loading == ["data:,"]
    style = next(text for name, text in found.texts.items() if name.startswith("style"))
    assert "url(" not in style and "@import" not in style
    scripts = [text for name, text in found.texts.items() if name.startswith("script")]
    assert not any(re.search(r"</script|<!--", text) for text in scripts)
    assert (
        "BSD 3-Clause" in found.texts["script licenses"]
        and "University of Washington" in found.texts["script licenses"]
    )


def test_a_page_is_smaller_than_five_megabytes_and_shows_questions_before_and_after():
    said = [session(step, index=i, text=f"{i}<\u2028" * 300) for step in (0, 4, 8) for i in range(1500)]
    text = page([run(DYAD, said)], "x")
    assert 4_000_000 < len(text.encode()) < 5_000_000
    shown = Elements(text).data["runs"][0]
    steps = {}
    for one in shown["sessions"]:
        steps.setdefault(one["index"], []).append(one["step"])
    assert shown["kept"] == 4500 and 50 < len(steps) < 1500 and all(found == [0, 4, 8] for found in steps.values())
    long = Elements(page([run(DYAD, [session(text="x" * 10**7), session(index=1, text="y" * 30_000)])], "x")).data
    assert [one["turns"][0]["text"][-30:] for one in long["runs"][0]["sessions"]][1].endswith("(10000 more characters)")


def test_sessions_whose_texts_were_kept_at_every_step_are_shown_first(monkeypatch):
    """A third of the questions has texts at both steps, a third at one, a third at none."""
    said = [session(step, index=i, text=f"{i:03}." * 375, without={"a": 0.0}) for step in (0, 8) for i in range(60)]
    said = [one if (one["index"] % 3) * 8 <= one["step"] else without_texts(one) for one in said]
    (shown,) = Elements(page([run(DYAD, said)], "x")).data["runs"]
    assert (shown["kept"], shown["bare"], len(shown["sessions"])) == (120, 60, 120)
    bare = next(one for one in shown["sessions"] if one["index"] == 2)
    assert bare["bare"] and bare["turns"] == [{"role": "a", "answer": "2", "reward": 1.0}] and bare["value"] == 1.0
    assert "question" not in bare and bare["replays"][0]["turns"] == []
    monkeypatch.setattr(report_page, "MOST_BYTES", len(page([run(DYAD)], "x").encode()) + 90_000)
    (shown,) = Elements(page([run(DYAD, said)], "x")).data["runs"]
    found = [one["index"] % 3 for one in shown["sessions"]]
    assert found.count(0) == 40 and 0 < len(found) - 40 < 80


def test_curves_of_long_runs_are_drawn_at_some_steps_the_last_among_them():
    many = [entry for step in range(1, 5001) for entry in [train(step, {"a": {"contribution": 0.1}})]]
    found = of_run(run([*many, *DYAD[:1], dict(DYAD[-1], step=5000)]), 400)
    for charts in found.values():
        for chart in charts:
            steps = {row["step"] for row in chart["spec"]["data"]["values"]}
            assert len(steps) <= 401 and max(steps) == 5000


def test_runs_whose_curves_alone_are_too_much_for_a_page_are_refused(monkeypatch):
    monkeypatch.setattr(report_page, "MOST_BYTES", 10**5)
    with pytest.raises(ReportError, match="the page of 3 runs would be larger than 0.1 MB.*report fewer at once"):
        page([run(DYAD)] * 3, "x")


@pytest.mark.parametrize("entries", [DYAD, CHAIN, VOTES, TIMED, DYAD[:1], [train(1)]])
def test_every_chart_is_one_that_vega_draws_with_a_quantity_on_each_axis(entries):
    from vl_convert import vegalite_to_vega

    charts = [chart for found in of_run(run(entries, SAID), 400).values() for chart in found]
    assert charts
    for chart in charts:
        drawn = vegalite_to_vega(chart["spec"])
        titles = [axis["title"] for axis in drawn["axes"] if "title" in axis]
        assert len(titles) == 2 and "training step" in titles and all(isinstance(title, str) for title in titles), chart
        assert chart["title"]


def test_intervals_are_over_questions():
    said = [session(0, index=i, value=float(i < 3), without={"think": float(i < 2)}) for i in range(4)]
    entries = [val(0, 0.75, {}, {"think": {"contribution": 0.25, "help_rate": 0.25, "hurt_rate": 0.0}}, sessions=4)]
    whole, without = (
        {
            one["title"]: one["spec"]["data"]["values"]
            for found in of_run(run(entries, kept), 9).values()
            for one in found
        }
        for kept in (said, said[:3])
    )
    (row,) = whole["Contribution"]
    assert (row["low"], row["high"]) == pytest.approx((0.25 - 3.1824 * 0.25, 0.25 + 3.1824 * 0.25), abs=1e-3)
    assert without["Contribution"] == [{"step": 0, "value": 0.25, "series": "think"}], "some questions are missing"
    notes = [of_run(run(entries, kept), 9)["Accuracy"][0]["note"] for kept in (said, said[:3])]
    assert "over questions" in notes[0] and "over sessions as if" in notes[1]
    twice = [*said, *(dict(one, session=1) for one in said)]
    entries = [val(0, 0.75, {}, {}, sessions=8)]
    found = of_run(run(entries, twice), 9)["Accuracy"][0]["spec"]["data"]["values"][0]
    assert (found["low"], found["high"]) == pytest.approx((0.3006, 0.9544), abs=1e-3), "of four questions, not of eight"


def test_runs_of_one_kind_are_averaged_over_their_seeds():
    def seeded(last, seed, kind="k", label="l"):
        entries = [val(0, 0.5, {}, {"a": {"contribution": 0.1}}), val(5, last, {}, {"a": {"contribution": 0.2}})]
        return run(entries, name=f"run {seed}", seed=seed, kind=kind, label=label)

    runs = [seeded(0.7, "0"), seeded(0.9, "1"), seeded(0.6, "0", "other", "m")]
    found = Elements(page(runs, "x")).data["together"]
    assert found["table"]["rows"] == [
        ["l", SOURCE, "2 (0, 1)", "0.500 +- 0.000", "0.800 +- 1.271", "0.300 +- 1.271"],
        ["m", SOURCE, "1 (0)", "0.500", "0.600", "0.100"],
    ]
    assert [chart["title"] for chart in found["charts"]] == ["Accuracy of the team", "Contribution of a"]
    rows = found["charts"][0]["spec"]["data"]["values"]
    last = next(row for row in rows if row["step"] == 5 and "seeds" in row)
    assert (last["value"], last["low"], last["high"], last["seeds"]) == (pytest.approx(0.8), 0.0, 1.0, 2)
    assert sum("run" in row for row in rows) == 4
    assert t_interval([0.5]) is None
    assert list(groups([seeded(0.5, "0", "a"), seeded(0.5, "1", "b")])) == ["run 0: l", "run 1: l"]


def test_a_run_is_read_with_what_its_configuration_calls_it(tmp_path):
    folders = []
    for seed in (0, 1):
        folder = tmp_path / f"run{seed}"
        (folder / JOB).parent.mkdir(parents=True)
        job = {"ccpo": {"team": "t", "credit": {"rule": "r"}, "seed": seed}, "data": {"seed": seed}, "seed": seed}
        (folder / JOB).write_text(json.dumps(job))
        folders.append(write(folder, DYAD))
    SessionLog(folders[0] / SESSIONS, 10**6, lambda: None).write(0, "val", [session()])
    first, second = map(read_run, folders)
    assert (first.label, first.seed, first.kind, len(first.sessions)) == ("t, r", "0", second.kind, 1)
    for damaged in ("", "3", "{", "ccpo: 3", "ccpo: {team: t}", "\x00"):
        (folders[1] / JOB).write_text(damaged)
        assert read_run(folders[1]).label == "run1"


def test_runs_of_one_seed_make_no_interval_over_seeds():
    def last(*seeds):
        runs = [run(DYAD, name=f"r{number}", seed=seed) for number, seed in enumerate(seeds)]
        together = Elements(page(runs, "x")).data["together"]
        (band,) = {"low" in row for row in together["charts"][0]["spec"]["data"]["values"] if "seeds" in row}
        assert band == ("+-" in together["table"]["rows"][0][4])
        return band

    assert last("0", "1") and not last("0", "0") and not last("0", "1", "0")


def test_a_role_without_which_there_is_no_answer_is_named_and_so_are_the_teams_own_replays():
    said = [session(without={"think": 0.0, "reason": 0.0})]
    said[0]["replays"][0]["name"] = "solo"
    shown = Elements(page([run(DYAD, said)], "x")).data["runs"][0]
    assert shown["needed"] == ["reason"]
    notes = {one["title"]: one["note"] for section in shown["sections"] for one in section["charts"]}
    assert notes["Accuracy of the team and of its replays"].endswith(" solo: without think.")


def test_a_run_without_sessions_says_so(tmp_path):
    assert read_run(write(tmp_path, DYAD)).sessions == []
    assert "This run has no sessions.jsonl" in page([run(DYAD)], "x")


# --- in a browser ---------------------------------------------------------------------------------------------------

PROBE = """
window.addEventListener("load", () => setTimeout(() => {
  const set = (id, value) => {
    const field = document.getElementById(id);
    if (field.type === "checkbox") field.checked = value; else field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const count = () => document.querySelectorAll("article").length;
  const found = { title: document.title, all: count(), plots: document.querySelectorAll(".plot svg.marks").length };
  found.images = document.querySelectorAll("main img").length;
  found.width = window.innerWidth;
  found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  set("kind", "train"); found.train = count(); found.credit = document.querySelector("article table").textContent; set("kind", "any");
  set("step", "8"); found.step8 = count(); set("step", "any");
  set("wrong", true); found.wrong = count(); set("wrong", false);
  set("effect", "pivotal"); found.pivotal = count();
  set("effect", "hurt 0"); found.hurt = count();
  set("effect", "helped 0"); found.helped = count(); set("effect", "any");
  set("search", "ONERROR"); found.search = count(); found.text = document.querySelector("article .text").textContent;
  found.effects = document.getElementById("effect").options.length;
  const mark = document.querySelector("article .note"), alone = [...mark.querySelectorAll("bdi")].map((one) => getComputedStyle(one).unicodeBidi);
  found.alone = alone.length === 2 && alone.every((one) => one === "isolate");
  set("search", ""); set("pairs", true); found.pairs = document.querySelectorAll(".pair").length;
  set("search", ""); set("pairs", false);
  const run = document.getElementById("run");
  run.value = "1"; run.dispatchEvent(new Event("change"));
  const [whole, bare] = document.querySelectorAll("article"), missing = [...bare.querySelectorAll(".note")].map((one) => one.textContent);
  found.first = whole.querySelector(".text").textContent;
  found.missing = missing.filter((text) => text === "text not kept").length;
  found.empty = document.querySelectorAll("article .text:empty, article .question:empty").length;
  found.undefined = document.querySelector("main").textContent.includes("undefined");
  found.kept = document.getElementById("kept").textContent;
  set("search", "toy/last_digit 0"); found.named = count();
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(found);
  parent.document.body.append(result);
}, 3000));
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed, so the page is not looked at in a browser")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_in_a_browser(tmp_path, width):
    path = tmp_path / "page.html"
    some = [without_texts(session(index=0, without={"a": 0.0})), session(index=1, text="said")]
    whole = page([run(DYAD, SAID), run(VOTES, some, name="votes")], EVIL)
    start, end, rest = whole.rpartition("</body>")
    probed = html.escape(f"{start}<script>{PROBE}</script>{end}{rest}")  # in a frame: a window has at least 500 pixels
    path.write_text(
        f'<body><iframe style="width:{width}px; height:900px" srcdoc="{probed}"></iframe></body>', encoding="utf-8"
    )
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path}/profile"]
    command += ["--window-size=1400,1000", "--enable-logging=stderr", "--virtual-time-budget=8000", "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, errors="replace")
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result, done.stdout[-2000:]
    found = json.loads(html.unescape(result[1]))
    assert found.pop("text").startswith("</script><img src=x onerror=") and found.pop("title").startswith("</script>")
    assert found.pop("kept").startswith("All 2 sessions that were kept. The texts of 1 of them were not kept: ")
    credit = found.pop("credit")
    assert "0.250" in credit and "0.125" in credit and found.pop("plots") >= 10
    assert found == {
        **{
            "width": width,
            "all": 6,
            "images": 0,
            "wide": 0,
            "train": 1,
            "step8": 3,
            "wrong": 3,
            "pivotal": 3,
            "hurt": 1,
            "helped": 2,
        },
        **{"search": 1, "pairs": 2, "effects": 4, "alone": True},
        **{"first": "said", "missing": 3, "empty": 0, "undefined": False, "named": 1},
    }
