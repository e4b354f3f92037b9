"use strict";

// Draws what the server says. Two answers come for one state: a short one at once, and the whole of it
// bit by bit; the second is shown as long as it is of the state that is asked for. The page looks for
// more only once the last look was answered: where answers are slow, looks would pile up. Each has a
// callback of its own: one with both as inputs would wait for a look that is out to draw a short answer.

(() => {
  const root = document.documentElement;
  const charts = ["frontier", "gains", "cycle", "memory", "cost", "accepted", "waterfall"];
  const keyed = ["cycle", "memory"];
  const settings = { displayModeBar: false, responsive: true };
  const template = JSON.parse(document.getElementById("house-style").textContent);
  const PAUSE_MS = 1500; // a change after a pause is a new entry of the history
  const LOST_MS = 20000; // an answer that takes longer is asked for again
  const MOST_BESIDE = 8;
  const LOOK_MS = 300; // from what was drawn to the next look for more
  const SOON_MS = 20; // and to one that the server answers once the whole answer is there
  let turn = 0;
  let asked = "";
  let since = 0;
  let waiting = false;
  let shown = null;
  let whole = null; // what was drawn last of the state that is asked for, bit by bit
  const NONE = { turn: 0, at: Infinity };
  let look = NONE; // the last one that waits for its answer
  let looks = 0;
  let why = false;
  let beside = []; // addresses of the answers that were kept
  let drawn = false;
  let changedAt = 0;
  const specs = {}; // by chart, what it shows
  const undrawn = new Map(); // and what is to be drawn, a chart a frame: numbers are seen before them

  /** A value with every "var(--name)" in it replaced by what the stylesheet says now. */
  function painted(value, styles = getComputedStyle(root)) {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? styles.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => painted(item, styles));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, painted(v, styles)]));
  }

  const set = (id, props) => dash_clientside.set_props(id, props);
  const element = (id) => document.getElementById(id);

  function words(id, text) {
    const place = element(id);
    if (place && place.textContent !== text) place.textContent = text;
  }

  function figure(name, spec) {
    const box = element(`box-${name}`) ?? element(name);
    if (box) box.hidden = !spec;
    const text = JSON.stringify(spec);
    if (specs[name] === text) return;
    specs[name] = text;
    if (!undrawn.size) afterFrame(drawCharts);
    undrawn.set(name, spec);
  }

  function afterFrame(act) {
    requestAnimationFrame(() => setTimeout(act));
  }

  function drawCharts() {
    if (!undrawn.size) return;
    const [name, spec] = undrawn.entries().next().value;
    undrawn.delete(name);
    if (undrawn.size) afterFrame(drawCharts);
    if (spec && element("ui")) chart(name, spec);
  }

  function chart(name, spec) {
    const layout = { ...spec.layout, template, autosize: true };
    if (keyed.includes(name)) key(name, spec, layout);
    // As a property: the element is not there before Plotly is, which may come after the answer.
    const style = { height: `${spec.layout.height}px` };
    set(name, { figure: { data: painted(spec.data), layout: painted(layout) }, config: settings, style });
  }

  /** The legend of a bar as a line above it: what is too narrow for a word in the bar. */
  function key(name, spec, layout) {
    layout.showlegend = false;
    layout.margin = { ...layout.margin, t: 2 };
    const named = painted(spec.data).filter((trace) => trace.showlegend);
    element(`key-${name}`).replaceChildren(...named.map((trace) => {
      const item = document.createElement("span");
      const mark = document.createElement("i");
      mark.style.background = trace.marker.color;
      item.append(mark, trace.name.replaceAll("&lt;", "<").replaceAll("&amp;", "&"));
      return item;
    }));
  }

  function list(id, items) {
    const place = element(id);
    if (place) place.replaceChildren(...items.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
  }

  function refusal(found) {
    const place = element("refusal");
    for (const id of ["charts", "tiles"]) {
      element(id).classList.toggle("faded", Boolean(found));
      element(id).hidden = Boolean(found) && !drawn; // there is no earlier answer to be seen
    }
    place.hidden = !found;
    if (!found) return;
    const why = document.createElement("p");
    why.textContent = found.why;
    const ways = found.remedies.map(({ words: text, query }) => {
      const link = document.createElement("a");
      link.href = among(query);
      link.textContent = text;
      return link;
    });
    const lead = document.createElement("p");
    lead.textContent = ways.length ? "This would do:" : "No change of a setting or two would do.";
    const row = document.createElement("div");
    row.append(...ways);
    place.replaceChildren(why, lead, row);
  }

  /** The address of a state beside which stands what was kept. */
  function among(query) {
    return query + beside.map((other) => `&beside=${encodeURIComponent(other)}`).join("");
  }

  function keep(others) {
    set("beside", { data: [...new Set(others)].slice(0, MOST_BESIDE) });
  }

  function lines(found) {
    element("kept-box").hidden = !found.length;
    element("kept-rows").replaceChildren(...found.map(({ name, query, cells }, at) => {
      const row = document.createElement("tr");
      const texts = [name, ...cells];
      row.append(...texts.map((text, i) => {
        const cell = document.createElement("td");
        if (i === 1 && name) {
          const link = document.createElement("a");
          link.href = among(query);
          link.textContent = text;
          cell.append(link);
        } else cell.textContent = text;
        return cell;
      }));
      if (texts.length < 10) row.lastChild.colSpan = 11 - texts.length; // why there is no answer
      const end = document.createElement("td");
      if (name) {
        const button = document.createElement("button");
        button.textContent = "x";
        button.title = `drop ${name}`;
        button.dataset.kept = at - 1;
        end.append(button);
      }
      row.append(end);
      return row;
    }));
  }

  function address(query, drop) {
    const wanted = among(drop ? `${query}&drop=${drop}` : query);
    if (wanted === location.search || (!location.search && !changedAt)) {
      changedAt = changedAt || 1;
      return;
    }
    const now = performance.now();
    const way = now - changedAt > PAUSE_MS ? "pushState" : "replaceState";
    changedAt = now;
    history[way](null, "", wanted);
  }

  function hide(names) {
    for (const row of document.querySelectorAll("#panel .row[id]")) {
      const { name } = JSON.parse(row.id);
      row.hidden = names.includes(name);
    }
  }

  function sparks(spec) {
    const place = element("sparks");
    if (!place) return;
    const shares = spec ? spec.data[0].y : [];
    const most = Math.max(...shares, 1);
    place.replaceChildren(...shares.map((share) => {
      const bar = document.createElement("i");
      bar.style.height = `${(100 * share) / most}%`;
      return bar;
    }));
  }

  function kept(fields) {
    const entries = Object.entries(fields);
    words("kept", entries.length ? `Also set: ${entries.map((e) => e.join(" ")).join(", ")}` : "");
  }

  /** Passes on what the controls say, one wish at a time: while one is answered, the next waits. */
  function wish(values, open, short, _late, others, page) {
    const controls = dash_clientside.callback_context.inputs_list[0];
    if (!page || !controls.length) return dash_clientside.no_update;
    const said = Object.fromEntries(controls.map(({ id, value }) => [id.name, value ?? null]));
    why = open;
    beside = others ?? [];
    const text = JSON.stringify([page.id, said, why, beside]);
    const now = performance.now();
    if (now - look.at > LOST_MS) later(short, LOOK_MS);
    if (short && short.turn === turn) waiting = false;
    if (text === asked && !(waiting && now - since > LOST_MS)) return dash_clientside.no_update;
    if (waiting && now - since <= LOST_MS) return dash_clientside.no_update;
    turn += 1;
    asked = text;
    since = now;
    waiting = true;
    look = NONE; // of the answer before, nothing more is wanted
    for (const name of undrawn.keys()) delete specs[name];
    undrawn.clear();
    return { page: page.id, values: said, why, turn, beside };
  }

  /** Looks for more of an answer, once what was drawn of it is on the screen. */
  function later(short, after) {
    const mine = { turn: ++looks, at: performance.now() };
    look = mine;
    setTimeout(() => {
      if (look !== mine || !element("ui")) return; // something else is asked for by now
      mine.at = performance.now();
      const mark = whole ? whole.mark : null;
      set("look", { data: { query: short.query, why, mark, turn: mine.turn, beside } });
    }, after);
  }

  /** Draws a short answer, or what is known of the whole of it. */
  function draw(short) {
    if (!short || !element("ui")) return dash_clientside.no_update; // the page is being left
    if (whole && whole.query !== short.query) whole = null;
    next(short, short.unfinished);
    return show(whole ?? short, short, short.lines);
  }

  /** Draws what a look has found. */
  function arrive(news, short) {
    if (!news || !short || !element("ui")) return dash_clientside.no_update;
    if (news.turn !== look.turn || news.mark[0] !== short.query) return dash_clientside.no_update;
    if (news.figures) whole = news;
    next(short, news.unfinished);
    return news.figures ? show(news, short, news.lines) : dash_clientside.no_update;
  }

  function next(short, unfinished) {
    look = NONE;
    if (unfinished) later(short, whole?.quality === "whole" ? LOOK_MS : SOON_MS);
  }

  function show(found, short, others) {
    shown = found;
    address(short.query, short.drop);
    hide(short.hidden);
    kept(short.kept);
    refusal(found.refusal);
    lines(others);
    element("keep").disabled = Boolean(found.refusal) || beside.length >= MOST_BESIDE;
    if (!found.refusal) {
      drawn = true;
      for (const [id, text] of Object.entries(found.words)) words(id, text);
      sparks(found.figures.accepted);
      for (const name of charts) figure(name, found.figures[name]);
    }
    for (const [name, text] of Object.entries(found.copies)) words(`copy-${name}`, text);
    list("notes", found.notes);
    const state = found.refusal ? "no answer" : found.unfinished ? "refining" : "refined";
    words("status", state);
    element("ui").dataset.state = state;
    if (element("ui").dataset.quality !== found.quality) element("ui").dataset.quality = found.quality ?? "";
    if (root.dataset.query !== found.query) root.dataset.query = found.query;
    if (found.why) {
      words("why-words", found.why.words);
      list("why-hangs", found.why.hangs);
    }
    return found.query;
  }

  function toggleWhy() {
    const open = dash_clientside.callback_context.triggered_id === "ask-why";
    element("overlay").hidden = !open;
    if (open && !(shown && shown.why)) {
      words("why-words", "Working it out: some hundred runs, on servers that cannot exist.");
      list("why-hangs", []);
    }
    return open;
  }

  function said(at, stops) {
    return stops[Math.min(Math.max(Math.round(Number(at) || 0), 0), stops.length - 1)];
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    page: { draw, arrive, wish, toggleWhy, said },
  });
  addEventListener("popstate", () => location.reload());
  addEventListener("click", ({ target }) => {
    if (target.id === "keep" && shown) keep([...beside, shown.query]);
    if (target.dataset?.kept) keep(beside.filter((_, at) => at !== Number(target.dataset.kept)));
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !element("overlay").hidden) element("shut").click();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => location.reload());
})();
