/* The tab Search: what to search for, how it goes, what it found, and all compositions that were measured. */
(() => {
  const { h, text, message, command } = globalThis.dem.dom;
  const { active, reached, same } = globalThis.dem.state;
  const { finding, front, searchForm, searchFound, searched, trials } = globalThis.dem;
  const PAUSE = 300; // milliseconds from the last change of the form until its command and cost are asked for
  const ABOUT = "A search runs in a process of its own: it goes on when this page is closed. All that it measures is kept, so one that was paused goes on where it was.";

  function search(root, line) {
    let parts = null, shown = null;
    const seen = () => root.closest("[role=tabpanel]")?.offsetParent !== null && root.offsetParent !== null;
    const read = async () => {
      const answers = await Promise.all(["live/trials", "live/search/trials"].map((route) => fetch(route)));
      if (!answers.every((answer) => answer.ok)) return;
      const [{ models, trials: rows, count }, { searches }] = await Promise.all(answers.map((answer) => answer.json()));
      if (models !== line.state.info?.models || !parts) return;
      trials.fill(parts.trials, rows, count);
      searched.fill(parts.searched, searches);
      draw(parts, line.state);
    };
    line.listen((state, event) => {
      if (!state.info?.models || !state.info.data.length) {
        parts = shown = null;
        root.replaceChildren(message("note", "Nothing to search", h("p", {}, "A search measures losses. Choose a base, checkpoints and a data folder under Models.")));
        return;
      }
      if (shown !== state.info) {
        // The same models may be told anew, for instance after a search: what was typed stays.
        if (!parts || layout(shown) !== layout(state.info)) parts = build(root, state.info, line);
        shown = state.info;
        if (seen()) read();
      }
      if (!seen()) return;
      if (event?.type === "forecast") read();
      else draw(parts, state);
    });
    // gradio shows the tab without an event of ours.
    document.addEventListener("click", (event) => {
      if (event.target.closest?.("#tab-search-button")) setTimeout(() => { if (parts) read(); }, 50);
    }, true);
  }

  const layout = ({ models, vectors, data }) => JSON.stringify([models, vectors, data.map(({ name, colour }) => [name, colour])]);

  function build(root, info, line) {
    const parts = { line, planned: null, plan: null };
    parts.form = searchForm.build(info, line.state, (told) => { searchForm.wanted(parts.form, told); draw(parts, line.state); });
    const button = (id, words, onclick, kind = "button") => h(kind, { type: "button", id, onclick }, words);
    parts.go = button("search-go", "Search", () => begin(parts), "button.primary");
    parts.resume = button("search-resume", "Resume", line.resumeSearch, "button.primary");
    parts.pause = button("search-pause", "Pause", line.stopSearch);
    parts.keep = button("search-keep", "", () => keep(line));
    parts.cost = h("span.quiet");
    parts.error = h("span.field-error", { role: "alert" });
    parts.said = h("p");
    parts.share = h("i");
    parts.bar = h("div.progress", {}, parts.share);
    parts.foot = h("div");
    parts.found = searchFound.build(line);
    parts.trials = trials.build(line);
    parts.searched = searched.build(line);
    parts.front = front.build(line, info);
    root.replaceChildren(parts.form.root, h("div.search-row", {}, parts.resume, parts.go, parts.pause, parts.keep, parts.cost, parts.error),
      h("div.search-state", {}, parts.said, parts.bar), parts.foot, parts.found.root, parts.searched.root, parts.front.root, parts.trials.root);
    return parts;
  }

  function begin(parts) {
    const wanted = searchForm.wanted(parts.form, true);
    if (wanted) parts.line.search(wanted);
  }

  /* Ends the search if it runs, and sets the best that it has found, as one step of undo. */
  function keep(line) {
    const { search: now } = line.state;
    if (active(now)) line.stopSearch();
    if (now.omegas) line.event({ type: "go", to: reached(line.state, now) });
  }

  /* Asks for the command and the cost of what the form says, where they are not known. */
  function ask(parts, state) {
    const wanted = searchForm.wanted(parts.form, false), near = wanted && (wanted.frozen.length || wanted.reach !== null);
    const key = wanted && JSON.stringify([state.info.models, wanted, near ? state.omegas : null, state.search?.state]);
    if (key === parts.planned) return;
    parts.planned = key;
    clearTimeout(parts.asking);
    parts.asking = setTimeout(async () => {
      const plan = wanted ? await parts.line.planSearch(wanted) : {};
      if (parts.planned !== key) return;
      parts.plan = plan;
      draw(parts, parts.line.state);
    }, PAUSE);
  }

  function draw(parts, state) {
    const { search: now, finding: asked, info } = state, mine = now && now.models === info.models ? now : null, runs = active(mine);
    const stopped = mine && ["cancelled", "failed", "interrupted"].includes(mine.state);
    const best = mine?.omegas && !same(state, reached(state, mine));
    parts.go.hidden = runs;
    parts.pause.hidden = !runs;
    parts.pause.disabled = parts.keep.disabled = mine?.state === "cancelling";
    parts.resume.hidden = !stopped;
    parts.go.classList.toggle("primary", !stopped);
    text(parts.go, stopped ? "Search anew" : "Search");
    parts.keep.hidden = !(runs || best);
    text(parts.keep, runs ? "Stop and keep the best" : "Set the best ω");
    parts.bar.hidden = !runs;
    if (runs) parts.share.style.width = `${mine.budget ? 100 * mine.spent / mine.budget : 0}%`;
    searchForm.follow(parts.form, state);
    ask(parts, state);
    const { seconds, error, command: planned } = parts.plan ?? {};
    text(parts.error, runs ? "" : error ?? "");
    text(parts.cost, runs || error || !planned ? "" : seconds ? `about ${finding.seconds(seconds)}` : "how long it takes is not measured yet");
    const words = asked?.error ?? (mine ? finding.words(mine) : ABOUT);
    text(parts.said, mine?.problem && !asked?.error ? `${words}. ${mine.problem}` : words);
    parts.said.classList.toggle("bad", !!asked?.error || mine?.state === "failed");
    const line = (runs ? mine.command : planned) ?? "";
    if (parts.foot.dataset.command !== line) {
      parts.foot.dataset.command = line;
      parts.foot.replaceChildren(...(line ? [command(line)] : []));
    }
    searchFound.draw(parts.found, state);
    const limits = searchForm.limits(parts.form, state);
    trials.allow(parts.trials, state, limits);
    front.draw(parts.front, state, parts.trials.trials, limits);
    trials.mark(parts.trials, state);
    searched.mark(parts.searched, state);
  }

  globalThis.dem.search = search;
})();
