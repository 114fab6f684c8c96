/* What the newest search has found beyond what sliders and bars show: ω of groups of layers as a recipe, and scores of tasks. */
(() => {
  const { h, swatch, command } = globalThis.dem.dom;
  const DEEPEST = 45; // percent of the accent colour in the cell with the largest ω: text on it stays readable

  const cell = (value, digits) => h("td.num", {}, value === null || value === undefined ? "–" : value.toFixed(digits));
  const table = (label, heads, rows) => h("div.scroll", {}, h("table.data", { "aria-label": label },
    h("thead", {}, h("tr", {}, heads.map((head, i) => h(i ? "th.num" : "th", { scope: "col" }, head)))), h("tbody", {}, rows)));

  /* A strip of cells for each vector: one for each group of layers, the darker the larger its ω. */
  function strip({ groups, omegas }, info) {
    const most = Math.max(1e-9, ...Object.values(omegas).flatMap((own) => Object.values(own).map(Math.abs)));
    const shade = (omega) => `color-mix(in srgb, var(${omega < 0 ? "--bad" : "--accent"}) ${Math.round(DEEPEST * Math.abs(omega) / most)}%, transparent)`;
    const colours = new Map(info.vectors.map(({ name, colour }) => [name, colour]));
    const rows = Object.entries(omegas).map(([name, own]) => {
      // A vector that changes nothing has one ω, for the whole model.
      const values = groups.map((group) => own[group] ?? own[""]);
      return h("tr", {}, h("th", { scope: "row" }, h("span.who", {}, swatch(colours.get(name)), name)),
        values.map((omega) => (omega === undefined ? h("td.num", { title: "this vector changes no tensor there" }, "–") : h("td.num", { "--shade": shade(omega) }, omega.toFixed(2)))));
    });
    const made = table("ω of each group of layers", ["ω", ...groups], rows);
    made.classList.add("strip-of-groups");
    return made;
  }

  /* The losses on each split, with the share of the expert's gain where one is known. */
  function losses(splits) {
    const names = Object.keys(splits), datasets = splits[names[0]].map((row) => row.dataset);
    const of = (split, dataset) => splits[split].find((row) => row.dataset === dataset);
    const share = (row) => (row?.share === null || row?.share === undefined ? "–" : `${(100 * row.share).toFixed(0)} %`);
    const shares = names.some((split) => splits[split].some((row) => typeof row.share === "number"));
    const mean = (split) => splits[split].reduce((sum, row) => sum + row.loss, 0) / splits[split].length;
    const rows = datasets.map((dataset) => h("tr", {}, h("th", { scope: "row" }, dataset),
      names.flatMap((split) => [cell(of(split, dataset)?.loss, 3), ...(shares ? [h("td.num", {}, share(of(split, dataset)))] : [])])));
    rows.push(h("tr", {}, h("th", { scope: "row" }, "mean"), names.flatMap((split) => [cell(mean(split), 3), ...(shares ? [h("td")] : [])])));
    return table("Losses of this recipe", ["loss", ...names.flatMap((split) => [split, ...(shares ? ["share"] : [])])], rows);
  }

  const scores = (title, rows) => h("section", {}, h("h3", {}, title[0].toUpperCase() + title.slice(1)), table(title, ["task", "metric", "base", "best", "± of the difference"],
    rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.task), h("td.num", {}, row.metric), cell(row.base, 3), cell(row.here, 3), cell(row.error, 3)))));

  /* The merge method that was searched, and task arithmetic with the same budget. */
  function methods(rows) {
    const splits = Object.keys(rows[0].losses), { aim, percent } = rows[0];
    const body = rows.map(({ method, value, losses: means }) => h("tr", {}, h("th", { scope: "row" }, method), cell(value, percent ? 1 : 4), splits.map((split) => cell(means[split], 4))));
    return h("section", {}, h("h3", {}, "With the same budget"), table("Merge methods with the same budget", ["method", `${aim}${percent ? " in %" : ""}`, ...splits.map((split) => `mean loss, ${split}`)], body));
  }

  function download({ name, text }) {
    const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: "application/yaml" })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function build(line) {
    const own = { line, root: h("section.found", { hidden: true }), key: "" };
    return own;
  }

  /* Asks for what the newest search has found, when it has found something better. */
  async function draw(own, state) {
    const now = state.search, mine = now && now.models === state.info.models && now.trials ? now : null;
    const key = mine ? JSON.stringify([mine.id, mine.state, mine.score, mine.recipe]) : "";
    if (own.key === key) return;
    own.key = key;
    let found = null;
    if (mine) {
      const answer = await fetch("live/search/found");
      if (own.key !== key || !answer.ok) return;
      found = await answer.json();
    }
    show(own, found, state.info, mine);
  }

  function show(own, found, info, search) {
    const titles = Object.entries(found?.scores ?? {}), { recipe } = found ?? {}, rows = found?.methods ?? [];
    own.root.hidden = !recipe && !titles.length && !rows.length;
    if (own.root.hidden) return own.root.replaceChildren();
    const soFar = search.state === "done" ? "" : " so far";
    const parts = [h("header.row-head", {}, h("h2", {}, `${recipe ? "Best recipe" : titles.length ? "Scores of the best" : "Merge methods"}${soFar}`), h("span.sizes", {}, search.score))];
    if (recipe) {
      parts.push(h("p.quiet", {}, "It has an ω for each group of layers, so sliders and bars cannot show it: they show the composition that they showed before. Talk, benchmarks and export of this page are for the sliders."),
        h("div.found-parts", {}, strip(found, info), Object.keys(found.losses).length ? losses(found.losses) : null),
        h("div.search-row", {}, h("button", { type: "button", id: "found-compare", title: "Compare lists it with everything that was measured, and can benchmark it", onclick: () => document.getElementById("tab-compare-button")?.click() }, "Show in Compare"),
          h("button", { type: "button", id: "found-download", onclick: () => download(recipe) }, "Download"),
          h("button.copy", { type: "button", id: "found-copy", "data-copy": recipe.text }, "copy the recipe")), command(recipe.merge));
    }
    if (rows.length) parts.push(methods(rows));
    own.root.replaceChildren(...parts, ...titles.map(([title, rows]) => scores(title, rows)));
  }

  globalThis.dem.searchFound = { build, draw, download };
})();
