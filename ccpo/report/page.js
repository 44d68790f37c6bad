"use strict";
(() => {
  const AT_ONCE = 20; // sessions that are shown before "Show more"
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let run = data.runs[0];
  let shown = AT_ONCE;

  /* An element with attributes and children; whatever is no element becomes text. */
  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function options(select, pairs) {
    select.replaceChildren(...pairs.map(([value, text]) => el("option", { value }, text)));
  }

  // --- numbers and curves ---------------------------------------------------------------------------------------

  function table({ head, rows, notes }) {
    const body = rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell))));
    const whole = el("table", {}, el("thead", {}, el("tr", {}, ...head.map((cell) => el("th", {}, cell)))), el("tbody", {}, ...body));
    return el("div", { class: "scroll", tabindex: "0" }, whole, ...notes.map((note) => el("p", { class: "note" }, note)));
  }

  function charts(found) {
    return el("div", { class: "charts" }, ...found.map((chart) => {
      const plot = el("div", { class: "plot" });
      plot.spec = chart.spec;
      const note = chart.note ? el("p", { class: "note" }, chart.note) : null;
      return el("figure", { class: "chart" }, el("h3", {}, chart.title), note, plot);
    }));
  }

  function colours(width, longest) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [text, soft, line] = ["--text", "--soft", "--line"].map(colour);
    return {
      background: "transparent",
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      axisY: { titleAngle: 0, titleAlign: "left", titleAnchor: "end", titleX: 0, titleY: -12, titleLimit: width - 40 },
      legend: { orient: "bottom", direction: "horizontal", columns: Math.max(1, Math.floor((width - 40) / (7 * longest + 30))), labelColor: text, labelFontSize: 12, labelLimit: Math.min(260, width - 60), symbolOpacity: 1 },
      range: { category: colour("--curves").split(/\s+/) },
      rule: { color: soft },
    };
  }

  function draw() {
    for (const plot of document.querySelectorAll(".plot")) {
      if (plot.view) {
        plot.view.finalize();
      }
      const width = plot.clientWidth;
      const longest = Math.max(...plot.spec.data.values.map((row) => row.series.length));
      const settings = { mode: "vega-lite", renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } };
      const spec = { ...plot.spec, autosize: { type: "fit-x", contains: "padding" }, padding: { left: 2, right: 8, top: 4, bottom: 4 } };
      vegaEmbed(plot, spec, { ...settings, config: colours(width, longest) }).then((made) => {
        plot.view = made;
      });
    }
  }

  // --- sessions -------------------------------------------------------------------------------------------------

  const name = (one) => `${one.source} ${one.index}, session ${one.session}`;
  const removed = (one, role) => one.replays.filter((replay) => replay.how === "remove" && replay.role === role);

  function verdict(value) {
    const word = value >= 1 ? "right" : value <= 0 ? "wrong" : `worth ${+value.toFixed(3)}`;
    return el("span", { class: value >= 1 ? "right" : "wrong" }, word);
  }

  /* What was asked or said. */
  const said = (text, kind) => (text === undefined ? el("p", { class: "note" }, "text not kept") : el("p", { class: kind }, text));

  function told(turn) {
    const marks = (turn.marks || []).map((mark) => ({ truncated: "cut by the token limit", cut: "what it heard was cut", leaked: "states an answer unasked" })[mark]);
    const answer = turn.answer !== undefined ? [" answered ", el("bdi", {}, turn.answer)] : [];
    const who = el("p", { class: "who" }, el("b", {}, turn.role), ...answer, turn.reward !== undefined ? ": " : "", turn.reward !== undefined ? verdict(turn.reward) : null, marks.length ? ` (${marks.join("; ")})` : "");
    return el("div", { class: "turn" }, who, said(turn.text, "text"));
  }

  function replays(one) {
    if (!one.replays.length) {
      return null;
    }
    const changed = one.replays.filter((replay) => replay.value !== one.value && !without(replay)).length;
    const count = `${one.replays.length} replay${one.replays.length > 1 ? "s" : ""}, ${changed} with another verdict`;
    const parts = one.replays.map((replay) => {
      const head = el("p", {}, el("b", {}, replay.name.replaceAll("_", " ")), ` (${replay.how} ${replay.role}): `, verdict(replay.value));
      return el("div", {}, head, ...(one.bare ? [said()] : replay.turns.map(told)));
    });
    return el("details", {}, el("summary", {}, count), ...parts);
  }

  function credit(one) {
    if (!one.credit) {
      return null;
    }
    const rows = Object.keys(one.credit).map((role) => [role, one.credit[role].toFixed(3), one.advantage && role in one.advantage ? one.advantage[role].toFixed(3) : ""]);
    if (!one.likelihood) {
      return table({ head: ["role", "credit", "advantage"], rows, notes: [] });
    }
    const { before, behind, answer_advantage: answer } = one.likelihood;
    const asked = rows.map((cells, number) => [...cells, number < before.length ? before[number].toFixed(3) : ""]);
    const chain = typeof behind === "number" ? `behind the last one's chain it was ${behind.toFixed(3)}` : null;
    const behindIt = typeof answer === "number" ? `what it said there has the advantage ${answer.toFixed(3)}` : null;
    const notes = [["likely before: how likely the reference answer was before the turn", chain, behindIt].filter(Boolean).join("; ")];
    return table({ head: ["role", "credit", "advantage", "likely before"], rows: asked, notes });
  }

  function card(one) {
    const kind = one.kind === "val" ? "validation" : "training";
    const answer = one.answer !== undefined ? ["; the team answered ", el("bdi", {}, one.answer)] : [];
    const ballots = Object.entries(one.ballots || {}).flatMap(([role, label], number) => [number ? ", " : "; ballots: ", `${role} `, label === null ? "none" : el("bdi", {}, label)]);
    return el("article", { class: "session" },
      el("div", { class: "head" }, el("span", {}, `${kind}, step ${one.step}`), el("span", {}, name(one)), verdict(one.value)),
      said(one.question, "question"),
      el("p", { class: "note" }, "truth: ", el("bdi", {}, one.truth), ...answer, ...ballots),
      ...one.turns.map(told), credit(one), replays(one));
  }

  function words(one) {
    if (!one.words) {
      const turns = [...one.turns, ...one.replays.flatMap((replay) => replay.turns)];
      one.words = [one.question, one.truth, one.answer, name(one), ...turns.map((turn) => turn.text)].join("\n").toLowerCase();
    }
    return one.words;
  }

  function wanted(one) {
    const [effect, number] = byId("effect").value.split(" ");
    const role = roles()[number];
    const replays = role === undefined ? one.replays.filter((replay) => !without(replay)) : removed(one, role);
    const effects = {
      any: () => true,
      pivotal: () => replays.some((replay) => replay.value !== one.value),
      hurt: () => replays.some((replay) => replay.value > one.value),
      helped: () => replays.some((replay) => replay.value < one.value),
    };
    return (
      (byId("kind").value === "any" || one.kind === byId("kind").value) &&
      (byId("step").value === "any" || one.step === Number(byId("step").value)) &&
      (!byId("wrong").checked || one.value < 1) &&
      effects[effect]() &&
      words(one).includes(byId("search").value.trim().toLowerCase())
    );
  }

  /* Whether nobody is left who answers. */
  const without = (replay) => replay.how === "remove" && run.needed.includes(replay.role);
  const roles = () => [...new Set(run.sessions.flatMap((one) => one.replays.filter((replay) => replay.how === "remove" && !without(replay)).map((replay) => replay.role)))];

  /* The same session of the first and of the last validation. */
  function pairs() {
    const steps = run.sessions.filter((one) => one.kind === "val").map((one) => one.step);
    const [first, last] = [Math.min(...steps), Math.max(...steps)];
    const ends = new Map();
    for (const one of run.sessions.filter((one) => one.kind === "val" && (one.step === first || one.step === last))) {
      ends.set(name(one), [...(ends.get(name(one)) || []), one]);
    }
    return first < last ? [...ends.values()].filter((pair) => pair.length === 2) : [];
  }

  /* 1 where a session, or one of a pair, is without its texts: those come last. */
  const bare = (found) => Number([found].flat().some((one) => one.bare));

  function list() {
    const together = byId("pairs").checked;
    const found = together ? pairs().filter((pair) => pair.some(wanted)) : run.sessions.filter(wanted);
    found.sort((one, other) => bare(one) - bare(other));
    const what = together ? "sessions, before and after" : "sessions";
    byId("count").textContent = `${found.length} ${what}${found.length > shown ? `; the first ${shown} are shown` : ""}`;
    byId("list").classList.toggle("paired", together);
    byId("list").replaceChildren(...found.slice(0, shown).map((one) => (together ? el("div", { class: "pair" }, ...one.map(card)) : card(one))));
    byId("more").hidden = found.length <= shown;
  }

  function again() {
    shown = AT_ONCE;
    list();
  }

  // --- the page -------------------------------------------------------------------------------------------------

  function show() {
    byId("about").textContent = `${data.runs.length > 1 ? "" : "A run of "}${run.label}; seed ${run.seed}; ${run.steps} steps${run.time ? `; ${run.time}` : ""}`;
    byId("curves").replaceChildren(...run.sections.flatMap((one) => [el("h2", {}, one.heading), ...one.tables.map(table), charts(one.charts)]));
    const some = run.sessions.length;
    const texts = run.bare ? ` The texts of ${run.bare} of them were not kept: a step's part of sessions.jsonl was full (ccpo.keep_sessions_mb).` : "";
    byId("kept").textContent = run.kept === 0
      ? "This run has no sessions.jsonl, so what was said is not known (ccpo.keep_sessions)."
      : `${some === run.kept ? `All ${some} sessions that were kept.` : `${some} of the ${run.kept} sessions that were kept: chosen by chance among the questions, as many as fit on the page.`}${texts}`;
    for (const id of ["filters", "count"]) {
      byId(id).hidden = some === 0;
    }
    const steps = [...new Set(run.sessions.map((one) => one.step))];
    options(byId("kind"), [["any", "all"], ["val", "validation"], ["train", "training"]]);
    options(byId("step"), [["any", "all"], ...steps.map((step) => [step, step])]);
    options(byId("effect"), [
      ["any", "all"], ["pivotal", "pivotal: one changes the verdict"],
      ...roles().map((role, number) => [`hurt ${number}`, `hurt by ${role}: right without it`]),
      ...roles().map((role, number) => [`helped ${number}`, `helped by ${role}: worse without it`]),
    ]);
    again();
    draw();
  }

  if (data.together) {
    const { table: numbers, charts: found } = data.together;
    byId("together").replaceChildren(el("h2", {}, "All runs"), table(numbers), charts(found));
    byId("together").hidden = byId("choice").hidden = false;
    options(byId("run"), data.runs.map((one, number) => [number, `${one.name} (${one.label})`]));
    byId("run").addEventListener("change", () => {
      run = data.runs[Number(byId("run").value)];
      show();
    });
  }
  byId("filters").addEventListener("input", again);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => {
    shown += AT_ONCE;
    list();
  });
  dark.addEventListener("change", draw);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) {
      width = window.innerWidth;
      draw();
    }
  });
  show();
})();
