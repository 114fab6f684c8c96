/* Find ω: the button beside the presets, and how the search goes that it begins. */
(() => {
  const { h, text } = globalThis.dem.dom;
  const { active } = globalThis.dem.state;
  const ABOUT = {
    share: "Search for the ω with the largest mean share of each expert's gain: up to 40 evaluations, no dataset worse than the base",
    loss: "Search for the ω with the lowest mean loss: up to 40 evaluations, no dataset worse than the base",
  };

  /* What is searched for where nothing else is asked: a share of gain needs a vector with the name of its dataset. */
  const aim = ({ data = [], vectors = [] }) => (data.some(({ name }) => vectors.some((vector) => vector.name === name)) ? "share" : "loss");

  const seconds = (value) => (value < 90 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`);

  /* A few examples count as a part of an evaluation. */
  const count = (spent) => String(Math.round(spent * 10) / 10);

  /* How a search goes, in one sentence. */
  function words(search) {
    const best = search.score ? `, best ${search.score}` : "";
    if (search.state === "queued" || (active(search) && !search.budget)) return "Search: opening the models in a process of its own";
    if (search.state === "cancelling") return "Search: pausing";
    if (search.state === "running") return `Search: ${count(search.spent)} of ${search.budget} evaluations${best}${search.left ? `, about ${seconds(search.left)} left` : ""}`;
    if (search.state === "done") return `Search done: ${search.result}`;
    if (search.state === "failed") return `Search failed: ${search.error}`;
    return `Search paused after ${count(search.spent)} evaluations${best}. What it measured is kept, and Resume goes on from there`;
  }

  function build(line) {
    const button = h("button", { type: "button", id: "find-omega", onclick: () => line.search({ aim: aim(line.state.info) }) }, "Find ω");
    const said = h("span"), stop = h("button", { type: "button", id: "find-stop", onclick: () => (active(line.state.search) ? line.stopSearch() : line.resumeSearch()) });
    const share = h("i"), bar = h("div.progress", {}, share), hint = h("p");
    const note = h("div.finding", { hidden: true, role: "status" }, h("p", {}, said, stop), bar, hint);
    return { button, note, said, stop, bar, share, hint };
  }

  function draw({ button, note, said, stop, bar, share, hint }, state) {
    const { search, finding, info } = state, runs = active(search);
    button.hidden = !info.data?.length;
    button.title = ABOUT[aim(info)];
    button.disabled = runs || !info.models;
    // A search that ended before this page was there is no news.
    const shown = search && search.models === info.models && (runs || finding?.id === search.id) ? search : null;
    note.hidden = !shown && !finding?.error;
    if (note.hidden) return;
    note.classList.toggle("problem", !shown || shown.state === "failed");
    const where = shown?.recipe && shown.state === "done" ? ". Its recipe is on the tab Search" : "";
    text(said, shown ? words(shown) + where : finding.error);
    text(hint, shown?.problem ?? "");
    bar.hidden = !runs;
    stop.hidden = !runs && shown?.state !== "cancelled";
    text(stop, runs ? "pause" : "resume");
    if (runs) share.style.width = `${shown.budget ? 100 * shown.spent / shown.budget : 0}%`;
  }

  globalThis.dem.finding = { aim, build, draw, words, seconds };
})();
