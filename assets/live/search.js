/* The tab Search: what to search for, how it goes, and all compositions that were measured, whoever asked for them. */
(() => {
  const { h, text, swatch, message, command } = globalThis.dem.dom;
  const { active, same, number: parsed, PLAIN } = globalThis.dem.state;
  const { finding, parallel, front } = globalThis.dem;
  const SHOWN = 100; // rows of the table
  const AIMS = [["share", "mean share of each expert's gain"], ["loss", "mean loss"], ["regret", "largest share that is missing"]];
  const LEARNS_FROM_ALL = ["surrogate", "gradient", "nsga"]; // needs the losses of every composition, also of bad ones
  const METHODS = ["surrogate", "gradient", "coordinate", "greedy", "grid", "simplex", "tpe", "gp", "nsga", "cma"];

  function search(root, line) {
    let parts = null, shown = null;
    const seen = () => root.closest("[role=tabpanel]")?.offsetParent !== null && root.offsetParent !== null;
    const read = async () => {
      const answer = await fetch("live/trials");
      if (!answer.ok) return;
      const { models, trials, count } = await answer.json();
      if (models !== line.state.info?.models || !parts) return;
      Object.assign(parts, { trials, count });
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
    const parts = { line, trials: [], count: 0, keeps: () => true };
    const aim = h("select", { id: "search-aim" }, AIMS.map(([value, words]) => h("option", { value, selected: value === finding.aim(info) }, words)));
    const method = h("select", { id: "search-method" }, METHODS.map((value) => h("option", { value }, value)));
    const number = (id, value) => h("input.figures", { id, type: "text", inputmode: "decimal", value });
    const budget = number("search-budget", "40"), low = number("search-low", "0"), high = number("search-high", "1"), reach = number("search-reach", "");
    const sum = number("search-sum", ""), norm = number("search-norm", "");
    const few = h("input", { type: "checkbox", id: "search-few", disabled: LEARNS_FROM_ALL.includes(method.value) });
    method.addEventListener("change", () => {
      few.disabled = LEARNS_FROM_ALL.includes(method.value);
      few.checked &&= !few.disabled;
    });
    const limited = h("input", { type: "checkbox", id: "search-limited", checked: true });
    const frozen = info.vectors.map(({ name, colour }) => [name, h("input", { type: "checkbox" }), colour]);
    parts.error = h("span.field-error", { role: "alert" });
    parts.go = h("button.primary", { type: "button", id: "search-go", onclick: () => begin() }, "Search");
    parts.stop = h("button", { type: "button", id: "search-stop", onclick: line.stopSearch }, "Stop");
    const field = (label, input) => h("label", {}, h("span", {}, label), input);
    parts.form = h("div.search-form", {}, field("aim", aim), field("method", method), field("evaluations", budget), field("ω from", low), field("to", high),
      h("label", { title: "How far each ω may move from where it stands; empty for the whole range" }, h("span", {}, "at most ± from here"), reach),
      h("label", { title: "The highest sum of all ω; empty for no limit" }, h("span", {}, "Σω at most"), sum),
      h("label", { title: "The highest norm of the edit, as a share of the base's; empty for no limit" }, h("span", {}, "‖ΔΘ‖ ∕ ‖Θ‖ at most"), norm),
      h("label.tick", {}, limited, h("span", {}, "no dataset worse than the base")),
      h("label.tick", { title: "Measures a quarter of the examples first, and the others only if the composition may be the best. Not for methods that learn from all losses" },
        few, h("span", {}, "few examples first")));
    parts.frozen = h("fieldset.members", {}, h("legend", {}, "keep as they stand"), frozen.map(([name, box, colour]) => h("label", {}, box, swatch(colour), name)));
    parts.said = h("p");
    parts.share = h("i");
    parts.bar = h("div.progress", {}, parts.share);
    parts.foot = h("div");
    parts.parallel = parallel.build((keeps) => { parts.keeps = keeps; table(parts, line.state); });
    parts.head = h("header.row-head");
    parts.table = h("div.scroll");
    parts.front = front.build(line, info);
    root.replaceChildren(parts.form, parts.frozen, h("div.search-row", {}, parts.go, parts.stop, parts.error), h("div.search-state", {}, parts.said, parts.bar), parts.foot,
      parts.front.root, parts.head, parts.parallel.root, parts.table);

    function begin() {
      const read = (input) => (input.value.trim() === "" ? null : parsed(input.value));
      const values = { budget: read(budget), low: read(low), high: read(high), reach: read(reach), highest_sum: read(sum), highest_norm: read(norm) };
      const wrong = [budget, low, high, reach, sum, norm].find((input) => input.value.trim() !== "" && read(input) === null) ?? [budget, low, high].find((input) => read(input) === null);
      text(parts.error, wrong ? `“${wrong.value}” is not a number` : !Number.isInteger(values.budget) ? "evaluations: give a whole number" : "");
      if (parts.error.textContent) return;
      line.search({ aim: aim.value, method: method.value, ...values, limited: limited.checked, screened: few.checked, frozen: frozen.filter(([, box]) => box.checked).map(([name]) => name) });
    }
    return parts;
  }

  function draw(parts, state) {
    const { search: now, finding: asked, info } = state, mine = now && now.models === info.models ? now : null, runs = active(mine);
    parts.go.disabled = runs;
    parts.stop.disabled = !runs;
    text(parts.go, mine?.state === "cancelled" && asked?.id === mine.id ? "Search on" : "Search");
    parts.bar.hidden = !runs;
    if (runs) parts.share.style.width = `${mine.budget ? 100 * mine.spent / mine.budget : 0}%`;
    const words = asked?.error ?? (mine ? finding.words(mine) : "A search runs in a process of its own: it goes on when this page is closed. All that it measures is kept, so one that was stopped goes on where it was.");
    text(parts.said, mine?.problem && !asked?.error ? `${words}. ${mine.problem}` : words);
    parts.said.classList.toggle("bad", !!asked?.error || mine?.state === "failed");
    if (parts.foot.dataset.command !== (mine?.command ?? "")) {
      parts.foot.dataset.command = mine?.command ?? "";
      parts.foot.replaceChildren(...(mine ? [command(mine.command)] : []));
    }
    front.draw(parts.front, state, parts.trials);
    if (parts.listed !== parts.trials) {
      parts.listed = parts.trials;
      parallel.draw(parts.parallel, axes(info), parts.trials);
      parts.keeps = parallel.keeps(parts.parallel);
      table(parts, state);
    } else mark(parts, state);
  }

  const axes = (info) => [
    ...info.vectors.map(({ name, colour }, i) => ({ key: `omega ${name}`, label: `ω ${name}`, colour, of: (row) => row.omegas[i] })),
    ...info.data.map(({ name, colour }, i) => ({ key: `loss ${name}`, label: name, colour, of: (row) => row.losses[i] })),
    { key: "mean", label: "mean", of: (row) => row.mean },
  ];

  const named = (info, row) => Object.fromEntries(info.vectors.map(({ name }, i) => [name, row.omegas[i]]));

  function table(parts, state) {
    const { info } = state, kept = parts.trials.filter(parts.keeps), columns = ["mean loss", ...info.vectors.map(({ name }) => `ω ${name}`), ...info.data.map(({ name }) => name)];
    const cells = (row, digits) => [row.mean.toFixed(digits), ...row.omegas.map((omega) => (digits > 4 ? String(omega) : omega.toFixed(2))), ...row.losses.map((loss) => loss.toFixed(digits))];
    parts.rows = kept.slice(0, SHOWN).map((row) => {
      const line = h("tr", { tabindex: "0", title: "Set these ω", onclick: () => go(row), onkeydown: (event) => { if (event.key === "Enter") go(row); } },
        cells(row, 3).map((cell) => h("td.num", {}, cell)));
      line.omegas = named(info, row);
      return line;
    });
    const go = (row) => parts.line.event({ type: "go", to: { ...PLAIN, omegas: named(info, row) } });
    const texts = kept.map((row) => cells(row, 6));
    const copies = [["CSV", [columns, ...texts].map((row) => row.map((cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(",")).join("\n")],
      ["JSON", JSON.stringify(kept.map((row) => ({ omegas: named(info, row), mean: row.mean, losses: Object.fromEntries(info.data.map(({ name }, i) => [name, row.losses[i]])) })))],
      ["Markdown", [columns, columns.map(() => "---:"), ...texts].map((row) => `| ${row.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`).join("\n")]];
    const count = kept.length === parts.count ? `${kept.length}` : `${kept.length} of ${parts.count}`;
    parts.head.replaceChildren(h("h2", {}, "Measured compositions"), h("span.sizes", {}, `${count}${kept.length > SHOWN ? `, the best ${SHOWN} are listed` : ""}; drag along an axis to filter`),
      h("span", {}, copies.map(([name, content]) => h("button.copy", { type: "button", "data-copy": content }, `copy ${name}`))));
    parts.table.replaceChildren(h("table.data", { id: "trials", "aria-label": "Measured compositions" }, h("thead", {}, h("tr", {}, columns.map((name) => h("th.num", { scope: "col" }, name)))), h("tbody", {}, parts.rows)));
    mark(parts, state);
  }

  /* The row of the composition that the page shows. */
  function mark(parts, state) {
    for (const row of parts.rows ?? []) row.classList.toggle("here", same(state, { ...PLAIN, omegas: row.omegas }));
  }

  globalThis.dem.search = search;
})();
