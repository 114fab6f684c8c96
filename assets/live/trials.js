/* The table of all compositions that were measured, and which of them are on the front. */
(() => {
  const { h } = globalThis.dem.dom;
  const { same, PLAIN } = globalThis.dem.state;
  const { parallel } = globalThis.dem;
  const { keeps: within, FREE } = globalThis.dem.optimum;
  const SHOWN = 100; // rows of the table
  const FRONT = "1: no other allowed composition is as good on every dataset and better on one. 2: only those of 1 are, and so on. –: not allowed by “bounds and limits”.";

  const beats = (one, other) => one.every((loss, i) => loss <= other[i]) && one.some((loss, i) => loss < other[i]);

  /* The rank of each row: 1 for those that no other one beats, 2 for those that only rows of rank 1 beat, and so on. A row that is not
     allowed has none, and counts for no other. A row is only beaten by rows with a lower mean, so only those before it are looked at. */
  function ranks(rows, allowed = () => true) {
    const order = rows.map((_, i) => i).filter((i) => allowed(rows[i])).sort((i, j) => rows[i].mean - rows[j].mean), found = new Array(rows.length).fill(null);
    order.forEach((i, place) => {
      found[i] = 1 + Math.max(0, ...order.slice(0, place).filter((j) => beats(rows[j].losses, rows[i].losses)).map((j) => found[j]));
    });
    return found;
  }

  function build(line) {
    const own = { line, trials: [], count: 0, limits: FREE, keeps: () => true };
    own.parallel = parallel.build((keeps) => { own.keeps = keeps; table(own); });
    own.only = h("input", { type: "checkbox", id: "front-only", onchange: () => table(own) });
    own.head = h("header.row-head");
    own.table = h("div.scroll");
    own.root = h("section.measured-trials", {}, own.head, own.parallel.root, own.table);
    return own;
  }

  /* Whether limits allow a measured composition: of those on the ω, those that are known before anything is measured; and that no
  dataset was measured to be worse than the base. */
  function allows(state, limits, row) {
    const names = state.info.vectors.map(({ name }) => name), known = state.forecast?.of(state) ? state.forecast : null;
    const x = known ? known.place(named(state.info, row)) : row.omegas;
    return within(known ?? { names, gram: null }, limits, x) && !(limits.spares && row.worse.length);
  }

  function rank(own) {
    const places = ranks(own.trials, (row) => allows(own.line.state, own.limits, row));
    own.trials = own.trials.map((row, i) => ({ ...row, rank: places[i] }));
  }

  /* Ranks the trials within other limits. */
  function allow(own, state, limits) {
    const asked = JSON.stringify([limits, state.forecast?.models]);
    if (own.asked === asked) return;
    Object.assign(own, { limits, asked });
    if (!own.trials.length) return;
    rank(own);
    table(own);
  }

  /* Shows other trials: rows of { omegas, losses, mean, worse } in the order of vectors and datasets, and their number. */
  function fill(own, trials, count) {
    const told = JSON.stringify([trials, count]);
    if (own.told === told) return; // a row that is replaced while it is pressed loses the click
    Object.assign(own, { count, trials, told });
    rank(own);
    parallel.draw(own.parallel, axes(own.line.state.info), own.trials);
    own.keeps = parallel.keeps(own.parallel);
    table(own);
  }

  const axes = (info) => [
    ...info.vectors.map(({ name, colour }, i) => ({ key: `omega ${name}`, label: `ω ${name}`, colour, of: (row) => row.omegas[i] })),
    ...info.data.map(({ name, colour }, i) => ({ key: `loss ${name}`, label: name, colour, of: (row) => row.losses[i] })),
    { key: "mean", label: "mean", of: (row) => row.mean },
  ];

  const named = (info, row) => Object.fromEntries(info.vectors.map(({ name }, i) => [name, row.omegas[i]]));

  function table(own) {
    const { info } = own.line.state, kept = own.trials.filter((row) => own.keeps(row) && (!own.only.checked || row.rank === 1));
    const columns = ["mean loss", "front", ...info.vectors.map(({ name }) => `ω ${name}`), ...info.data.map(({ name }) => name)];
    const cells = (row, digits) => [row.mean.toFixed(digits), row.rank === null ? "–" : String(row.rank), ...row.omegas.map((omega) => (digits > 4 ? String(omega) : omega.toFixed(2))), ...row.losses.map((loss) => loss.toFixed(digits))];
    const go = (row) => own.line.event({ type: "go", to: { ...PLAIN, omegas: named(info, row) } });
    own.rows = kept.slice(0, SHOWN).map((row) => {
      const line = h("tr", { tabindex: "0", title: "Set these ω", onclick: () => go(row), onkeydown: (event) => { if (event.key === "Enter") go(row); } },
        cells(row, 3).map((cell) => h("td.num", {}, cell)));
      line.classList.toggle("on-front", row.rank === 1);
      line.omegas = named(info, row);
      return line;
    });
    const texts = kept.map((row) => cells(row, 6));
    const copies = [["CSV", [columns, ...texts].map((row) => row.map((cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(",")).join("\n")],
      ["JSON", JSON.stringify(kept.map((row) => ({ omegas: named(info, row), mean: row.mean, front: row.rank, losses: Object.fromEntries(info.data.map(({ name }, i) => [name, row.losses[i]])) })))],
      ["Markdown", [columns, columns.map(() => "---:"), ...texts].map((row) => `| ${row.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`).join("\n")]];
    const count = kept.length === own.count ? `${kept.length}` : `${kept.length} of ${own.count}`;
    own.head.replaceChildren(h("h2", {}, "Measured compositions"), h("span.sizes", {}, `${count}${kept.length > SHOWN ? `, the best ${SHOWN} are listed` : ""}; drag along an axis to filter`),
      h("label.tick", { title: FRONT }, own.only, h("span", {}, "only the front")),
      h("span", {}, copies.map(([name, content]) => h("button.copy", { type: "button", "data-copy": content }, `copy ${name}`))));
    own.table.replaceChildren(h("table.data", { id: "trials", "aria-label": "Measured compositions" },
      h("thead", {}, h("tr", {}, columns.map((name) => h("th.num", { scope: "col", title: name === "front" ? FRONT : null }, name)))), h("tbody", {}, own.rows)));
    mark(own, own.line.state);
  }

  /* The row of the composition that the page shows. */
  function mark(own, state) {
    for (const row of own.rows ?? []) row.classList.toggle("here", same(state, { ...PLAIN, omegas: row.omegas }));
  }

  globalThis.dem.trials = { build, fill, allow, allows, mark, ranks, beats };
})();
