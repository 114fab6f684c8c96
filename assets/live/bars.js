/* The bars: for each dataset, the share of its expert's gain that the composition keeps. They are never emptied: what is behind
the sliders is dimmed in place until its new value comes. Meanwhile a hollow bar shows what is predicted. It stays beside the
measured one until the next move, so that everybody sees where it should have been. */
(() => {
  const { h, text, swatch, message, command, painter } = globalThis.dem.dom;
  const { status } = globalThis.dem.state;
  const { which } = globalThis.dem.measuring;
  const AXIS = [-0.4, 1.25]; // shares; 0 is the base, 1 the dataset's expert
  const WEAK = 0.9; // the R² of compositions left out below which a prediction is called weak
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
        const bar = h("b"), error = h("u"), hollow = h("i.hollow", { hidden: true }), doubt = h("u.doubt", { hidden: true });
        const track = h("div.track", { role: "img" }, bar, error, hollow, doubt);
        const share = h("span.num.share"), loss = h("span.num.loss");
        const row = h("div.row.waiting", { "--c": `var(--dataset-${dataset.colour})`, "data-dataset": dataset.name },
          h("span.who", {}, swatch(dataset.colour), h("span", { title: dataset.name }, dataset.name)), track, share, loss);
        rows.set(dataset.name, { row, bar, error, hollow, doubt, track, share, loss });
        return row;
      }), mean);
    root.replaceChildren(section, foot);
    return [{ section, sizes, mean, foot, seen: {} }, rows];
  }

  /* What is predicted for the composition, by dataset; null if nothing is. A prediction was made before the losses were known:
  it is kept for this composition, although the next forecast knows them. */
  function foreseen(seen, rows, state, how) {
    const key = JSON.stringify([state.info.models, state.method, state.parameters, state.omegas]);
    if (seen.key !== key) Object.assign(seen, { key, guesses: null });
    if (!seen.guesses && how !== "full" && state.forecast?.fits(state)) {
      seen.guesses = Object.fromEntries([...rows.keys()].map((name) => [name, state.forecast.predict(name, state.omegas)]));
    }
    return seen.guesses;
  }

  function draw({ section, sizes, mean, foot, seen }, rows, state) {
    const losses = state.losses, { losses: how } = status(state);
    section.classList.toggle("behind", how === "behind");
    section.classList.toggle("preview", how === "preview");
    section.dataset.digest = losses?.digest ?? "";
    section.dataset.stage = how === "full" ? "exact" : how;
    const guesses = foreseen(seen, rows, state, how), alone = guesses && (how === "behind" || !losses);
    for (const [name, row] of rows) {
      const point = losses?.points[name];
      // Most events leave the losses as they are.
      if (row.point !== point || !point || row.guessed) draw_row(row, name, row.point = point);
      draw_guess(row, name, guesses?.[name], row.guessed = alone);
    }
    // How far the others are is said at the top of the page.
    const waits = state.info.models ? "measuring…" : "the models are being opened…";
    text(sizes, alone ? source(guesses, state.forecast) : !how || how === "behind" ? waits : which(losses, rows.size));
    draw_mean(mean, alone ? mean_of(Object.values(guesses)) : losses?.mean, alone);
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
    place(bar, Math.min(0, value), Math.max(0, value));
    place(error, value - spread, value + spread);
    // Without the ends of its axis a loss has no share yet.
    fill(share, known ? `${signed(100 * value, 0)} %` : point.ends ? "—" : "…", known && point.share_stderr !== null ? `±${Math.round(100 * spread)}` : "", "b");
    fill(loss, three(point.loss), `±${three(point.stderr)}`);
    loss.title = point.ends ? `base ${three(point.base)}, expert ${three(point.expert)}` : "The losses of the base and of the expert are still to be measured.";
    track.setAttribute("aria-label", `${name}: ${known ? `${Math.round(100 * value)} % of its expert's gain, ` : ""}loss ${three(point.loss)}, standard error ${three(point.stderr)}, ${point.quick ? "quick, " : ""}${point.n} examples`);
  }

  /* What a prediction is made from, and what speaks against it. */
  function source(guesses, { count }) {
    if (!Object.values(guesses).every((guess) => guess.inside)) return "predicted beyond the measured ω";
    const weak = Object.entries(guesses).filter(([, guess]) => guess.r2 === null || guess.r2 < WEAK).map(([name]) => name);
    return weak.length ? `predicted, weak for ${weak.join(", ")}` : `predicted from ${count} compositions`;
  }

  /* The hollow bar of a prediction; if no losses are there to be read, its numbers too. */
  function draw_guess({ row, hollow, doubt, track, share, loss }, name, guess, alone) {
    const known = !!guess && guess.share !== null;
    hollow.hidden = doubt.hidden = !known;
    row.classList.toggle("foreseen", !!guess && alone);
    row.classList.toggle("outside", !!guess && !guess.inside);
    if (known) {
      place(hollow, Math.min(0, guess.share), Math.max(0, guess.share));
      place(doubt, guess.share - guess.share_stderr, guess.share + guess.share_stderr);
    }
    if (!guess || !alone) return;
    fill(share, known ? `≈ ${signed(100 * guess.share, 0)} %` : "—", known ? `±${Math.round(100 * guess.share_stderr)}` : "", "b");
    fill(loss, `≈ ${three(guess.loss)}`, `±${three(guess.stderr)}`);
    loss.title = guess.r2 === null ? "predicted" : `predicted; R² of compositions left out ${guess.r2.toFixed(2)}`;
    track.setAttribute("aria-label", `${name}, predicted: ${known ? `${Math.round(100 * guess.share)} % of its expert's gain, ` : ""}loss ${three(guess.loss)}, standard error ${three(guess.stderr)}`);
  }

  function mean_of(guesses) {
    const value = guesses.reduce((sum, guess) => sum + guess.loss, 0) / guesses.length;
    return { value, stderr: Math.hypot(...guesses.map((guess) => guess.stderr)) / guesses.length, datasets: guesses.length };
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

  function draw_mean(element, mean, guessed) {
    const words = mean ? `${guessed ? "predicted " : ""}mean loss of ${mean.datasets} dataset${mean.datasets === 1 ? "" : "s"}, nats per token` : "mean loss";
    const key = JSON.stringify([mean ?? null, guessed]);
    if (element.dataset.key === key) return;
    element.dataset.key = key;
    element.replaceChildren(h("span", {}, words), h("b", {}, mean ? `${guessed ? "≈ " : ""}${three(mean.value)}` : "…"),
      ...(mean ? [h("small", {}, `±${three(mean.stderr)}`)] : []), ...(mean?.n ? [h("small", {}, `n = ${mean.n}`)] : []));
    element.classList.toggle("foreseen", !!guessed);
  }

  globalThis.dem.bars = bars;
})();
