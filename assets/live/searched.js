/* The trials of searches that the table of measured compositions has not: ω of groups of layers, scores, other merge methods. */
(() => {
  const { h, text } = globalThis.dem.dom;
  const { same } = globalThis.dem.state;
  const { searchFound } = globalThis.dem;

  /* The ω of a vector: one number, or one for each group of layers, such as 0.40/0.60/–. */
  function compact(omegas) {
    const cells = omegas.map((omega) => omega?.toFixed(2) ?? "–"), different = new Set(cells.filter((cell) => cell !== "–"));
    return different.size === 1 ? [...different][0] : cells.join("/");
  }

  /* What a search shows: its columns, and the cells of a row but for the last, its recipe. */
  function layout(search) {
    const unit = search.percent ? " in %" : "", digits = search.percent ? 1 : 4, vectors = Object.keys(search.rows[0].omegas);
    const cells = ({ value, error, omegas, parameters }) => [value.toFixed(digits), error === null ? "–" : error.toFixed(digits),
      ...vectors.map((name) => compact(omegas[name])), ...search.parameters.map((name) => parameters[name].toFixed(3))];
    return { columns: [`${search.aim}${unit}`, "±", ...vectors.map((name) => `ω ${name}`), ...search.parameters], cells };
  }

  /* What to know of the rows of a search. */
  function words({ groups, rows, count }) {
    return [
      groups.length ? `The ω of a vector are those of ${groups.join(" / ")}.` : "",
      "± is the standard error of the difference from the base.",
      rows.some((row) => !row.allowed) ? "Struck through are those that make a dataset or a task worse than the base." : "",
      rows.some((row) => row.to) ? "A click on a row sets it." : "",
      groups.length && rows.some((row) => !row.to) ? "Sliders have one ω for each vector, so they cannot show rows with several: copy the digest of such a recipe, or save it, for dem merge, loss, bench and compare." : "",
      rows.length < count ? `The best ${rows.length} of ${count} are listed.` : "",
    ].filter(Boolean).join(" ");
  }

  function build(line) {
    const own = { line, searches: [], rows: [] };
    own.choice = h("select", { id: "searched-choice", "aria-label": "Search", onchange: () => table(own) });
    own.said = h("p.quiet");
    own.error = h("span.field-error", { role: "alert" });
    own.table = h("div.scroll");
    own.root = h("section.measured-trials", { hidden: true }, h("header.row-head", {}, h("h2", {}, "Trials of a search"), own.choice, own.error), own.table, own.said);
    return own;
  }

  /* Shows the trials of other searches. The one that was chosen stays; a new one is chosen when it comes. The same rows are not drawn
  again: a button that is replaced while it is pressed loses the click. */
  function fill(own, searches) {
    const told = JSON.stringify(searches);
    if (own.told === told) return;
    own.told = told;
    const first = searches[0]?.id, kept = own.searches[0]?.id === first && searches.some(({ id }) => id === own.choice.value);
    const chosen = kept ? own.choice.value : first;
    own.searches = searches;
    own.root.hidden = !searches.length;
    own.choice.replaceChildren(...searches.map(({ id, title }) => h("option", { value: id, selected: id === chosen }, title)));
    table(own);
  }

  function table(own) {
    const search = own.searches.find(({ id }) => id === own.choice.value);
    if (!search) return own.table.replaceChildren();
    const { columns, cells } = layout(search);
    own.rows = search.rows.map((row) => {
      const go = () => own.line.event({ type: "go", to: row.to });
      const set = { tabindex: "0", title: "Set this composition", onclick: (event) => { if (!event.target.closest("button")) go(); },
        onkeydown: (event) => { if (event.key === "Enter" && event.target === line) go(); } };
      const line = h(row.to ? "tr.can-be-set" : "tr", row.to ? set : {}, cells(row).map((cell) => h("td.num", {}, cell)), h("td.num", {}, recipe(own, row)));
      line.classList.toggle("worse", !row.allowed);
      line.to = row.to;
      return line;
    });
    own.table.replaceChildren(h("table.data", { id: "searched", "aria-label": "Trials of a search" },
      h("thead", {}, h("tr", {}, [...columns, "recipe"].map((name) => h("th.num", { scope: "col" }, name)))), h("tbody", {}, own.rows)));
    text(own.said, words(search));
    mark(own, own.line.state);
  }

  /* A digest that is copied by a click, and a button that saves the recipe. */
  const recipe = (own, { digest }) => h("span.recipe", {}, h("button.copy", { type: "button", "data-copy": digest, title: "Copy the digest" }, digest),
    h("button.copy", { type: "button", title: "Save the recipe as a file", onclick: () => save(own, digest) }, "save"));

  async function save(own, digest) {
    const answer = await fetch("live/search/recipe", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ digest }) });
    const said = await answer.json();
    text(own.error, said.error ?? "");
    if (answer.ok) searchFound.download(said);
  }

  /* The row of the composition that the page shows. */
  function mark(own, state) {
    for (const row of own.rows) row.classList.toggle("here", !!row.to && same(state, row.to));
  }

  globalThis.dem.searched = { build, fill, mark, compact, layout, words };
})();
