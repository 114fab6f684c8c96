/* The bars: for each dataset, the share of its expert's gain that the composition keeps. They are never emptied: what is behind
the sliders is dimmed in place until its new value comes. */
(() => {
  const { h, text, swatch, message, command, painter } = globalThis.dem.dom;
  const { status } = globalThis.dem.state;
  const AXIS = [-0.4, 1.25]; // shares; 0 is the base, 1 the dataset's expert
  const MINUS = "−";

  const at = (share) => `${((Math.min(AXIS[1], Math.max(AXIS[0], share)) - AXIS[0]) / (AXIS[1] - AXIS[0]) * 100).toFixed(2)}%`;
  const signed = (value, digits) => (value < 0 ? MINUS : "") + Math.abs(value).toFixed(digits);
  const three = (value) => (value === null || value === undefined ? "—" : signed(value, 3));

  function bars(root, line) {
    let shown = null, rows = new Map(), parts = null;
    const paint = painter((state) => draw(parts, rows, state));
    line.listen((state) => {
      if (!state.info?.vectors) {
        shown = null;
        paint.cancel();
        const words = state.server === "empty" ? state.note || "Choose a base and checkpoints under Models." : "Opening the models. This takes a few seconds.";
        root.replaceChildren(message("note", state.server === "empty" ? "Nothing is open" : "Loading", h("p", {}, words)));
        return;
      }
      if (!state.info.data.length) {
        shown = null;
        paint.cancel();
        root.replaceChildren(message("note", "No validation data", h("p", {}, "Choose a data folder under Models to see the losses. It has one folder per dataset, each with a validation.jsonl of prompts and completions.")));
        return;
      }
      if (shown !== state.info) {
        [parts, rows] = build(root, state.info);
        shown = state.info;
      }
      paint(state);
    });
  }

  function build(root, info) {
    const rows = new Map();
    const sizes = h("span.sizes");
    const mean = h("div.mean");
    const foot = h("div");
    const ticks = [[0, "base"], [0.5, "50 %"], [1, "expert"]].map(([share, label]) => h("i", { style: `left:${at(share)}` }, label));
    const section = h("section.bullets", { "data-stage": "" },
      h("header", {}, h("h2", {}, "Share of each expert’s gain that the merge keeps"), sizes),
      h("div.axis", { "aria-hidden": "true" }, h("span"), h("div", {}, ticks), h("span.num", {}, "share"), h("span.num", {}, "loss")),
      info.data.map((dataset) => {
        const bar = h("b"), error = h("u"), track = h("div.track", { role: "img" }, bar, error);
        const share = h("span.num.share"), loss = h("span.num.loss");
        const row = h("div.row.waiting", { "--c": `var(--dataset-${dataset.colour})`, "data-dataset": dataset.name },
          h("span.who", {}, swatch(dataset.colour), h("span", { title: dataset.name }, dataset.name)), track, share, loss);
        rows.set(dataset.name, { row, bar, error, track, share, loss });
        return row;
      }), mean);
    root.replaceChildren(section, foot);
    return [{ section, sizes, mean, foot }, rows];
  }

  function draw({ section, sizes, mean, foot }, rows, state) {
    const losses = state.losses, { losses: how } = status(state);
    section.classList.toggle("behind", how === "behind");
    section.classList.toggle("preview", how === "preview");
    section.dataset.digest = losses?.digest ?? "";
    section.dataset.stage = how === "full" ? "exact" : how;
    for (const [name, row] of rows) {
      const point = losses?.points[name];
      // Most events leave the losses as they are.
      if (row.point !== point || !point) draw_row(row, name, row.point = point);
    }
    const points = Object.values(losses?.points ?? {}), n = points.reduce((sum, point) => sum + point.n, 0);
    const words = { full: `n = ${n}`, quick: `quick, n = ${n}; full set follows`, preview: `preview, n = ${n}; exact when you stop`, behind: "measuring…" };
    text(sizes, words[how] ?? (state.info.models ? "measuring…" : "the models are being opened…"));
    draw_mean(mean, losses?.mean);
    const wanted = how === "full" ? state.command : "";
    if (foot.dataset.command !== wanted) {
      foot.dataset.command = wanted;
      foot.replaceChildren(...(wanted ? [command(wanted)] : []));
    }
  }

  function draw_row({ row, bar, error, track, share, loss }, name, point) {
    row.classList.toggle("waiting", !point);
    if (!point) {
      text(share, "…");
      text(loss, "…");
      return;
    }
    const known = point.share !== null, value = known ? point.share : 0, spread = point.share_stderr ?? 0;
    row.classList.toggle("quick", point.quick);
    row.classList.toggle("full", !point.quick);
    row.classList.toggle("over", value > AXIS[1]);
    row.classList.toggle("under", value < AXIS[0]);
    bar.hidden = error.hidden = !known;
    const [start, end] = [0, value].sort((one, other) => one - other);
    place(bar, start, end);
    place(error, value - spread, value + spread);
    fill(share, known ? `${signed(100 * value, 0)} %` : "—", known && point.share_stderr !== null ? `±${Math.round(100 * spread)}` : "", "b");
    fill(loss, three(point.loss), `±${three(point.stderr)}`);
    loss.title = `base ${three(point.base)}, expert ${three(point.expert)}`;
    track.setAttribute("aria-label", `${name}: ${known ? `${Math.round(100 * value)} % of its expert's gain, ` : ""}loss ${three(point.loss)}, standard error ${three(point.stderr)}, ${point.quick ? "quick, " : ""}${point.n} examples`);
  }

  function place(element, low, high) {
    element.style.left = at(low);
    element.style.width = `calc(${at(high)} - ${at(low)})`;
  }

  function fill(element, value, note, tag = "span") {
    if (element.dataset.text === value + note) return;
    element.dataset.text = value + note;
    element.replaceChildren(h(tag, {}, value), " ", h("small", {}, note));
  }

  function draw_mean(element, mean) {
    const words = mean ? `mean loss of ${mean.datasets} dataset${mean.datasets === 1 ? "" : "s"}, nats per token` : "mean loss";
    const key = JSON.stringify(mean ?? null);
    if (element.dataset.key === key) return;
    element.dataset.key = key;
    element.replaceChildren(h("span", {}, words), h("b", {}, mean ? three(mean.value) : "…"),
      ...(mean ? [h("small", {}, `±${three(mean.stderr)}`), h("small", {}, `n = ${mean.n}`)] : []));
  }

  globalThis.dem.bars = bars;
})();
