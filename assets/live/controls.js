/* The left column: formula, merge method with its parameters, a slider for each vector, presets, undo and redo. */
(() => {
  const { h, text, swatch, message, painter, holding } = globalThis.dem.dom;
  const { figures, number, plain } = globalThis.dem.state;
  const { strips, finding } = globalThis.dem;
  const PAUSE = 700; // milliseconds after the last key in a box before its text counts
  const REST = 1500; // milliseconds without a move before a held slider counts as at rest
  const STEP = 0.01;
  const now = () => performance.now();

  function controls(root, line) {
    let shown = null, parts = null, rest = 0;
    const send = (type, more = {}) => line.event({ type, at: now(), ...more });
    const paint = painter((state) => update(parts, state));

    line.listen((state) => {
      // A slider that is held is moved by the browser itself; all else is drawn before anybody can ask for it.
      const waits = state.held && shown === state.info;
      if (!waits) paint.cancel();
      if (!state.info?.vectors) {
        shown = null;
        root.replaceChildren(empty(state));
        return;
      }
      // Sliders that are there already stay, because a hand may hold one while the models are being opened.
      if (shown !== state.info && layout(shown) !== layout(state.info)) parts = build(root, state, send, line);
      if (waits) paint(state);
      else update(parts, state);
      shown = state.info;
      clearTimeout(rest);
      if (state.held && state.losses?.stage === "preview") rest = setTimeout(() => send("rest"), REST);
    });
  }

  /* All of what is open that decides how the column is built. */
  const layout = (info) => info && JSON.stringify([info.range, info.vectors, info.methods, info.elsewhere]);

  function empty(state) {
    if (state.server === "empty") {
      return message("note", "Nothing is open", h("p", {}, state.note || "Choose a base and checkpoints under Models."));
    }
    const words = state.server === "gone" ? "The server does not answer." : "Opening the models. This takes a few seconds.";
    return message("note", "Loading", h("p", {}, words));
  }

  function build(root, { info }, send, line) {
    const parts = { sliders: new Map(), fields: new Map(), members: new Map(), method: null };
    parts.formula = h("div.formula", { "aria-live": "off" });
    parts.banner = h("div.banner", { hidden: true });
    parts.size = h("p.size");
    parts.about = h("div.about");
    parts.refused = h("div", { "aria-live": "polite" });
    parts.select = h("select", { id: "method-choice", onchange: (event) => send("method", { name: event.target.value }) },
      info.methods.map((method) => h("option", { value: method.name, title: method.formula }, method.name)));
    const [low, high] = info.range;
    parts.list = h("div.sliders", { id: "sliders" }, info.vectors.map((vector) => {
      const slider = build_slider(vector, low, high, send, line);
      parts.sliders.set(vector.name, slider);
      return slider.row;
    }));
    parts.membership = h("fieldset.members", { hidden: true }, h("legend", {}, "vectors to merge"), info.vectors.map((vector) => {
      const box = h("input", { type: "checkbox", onchange: (event) =>
        send("omega", { name: vector.name, value: event.target.checked ? last(line.state, vector.name) : 0 }) });
      parts.members.set(vector.name, box);
      return h("label", {}, box, swatch(vector.colour), vector.name);
    }));
    parts.undo = h("button", { type: "button", id: "undo", title: "Ctrl+Z", "aria-label": "undo", onclick: () => send("undo") }, "↶");
    parts.redo = h("button", { type: "button", id: "redo", title: "Ctrl+Shift+Z", "aria-label": "redo", onclick: () => send("redo") }, "↷");
    parts.finding = finding.build(line);
    parts.best = h("button", { type: "button", id: "preset-best", onclick: () => send("go", { to: line.state.best.to }) }, "best");
    parts.presets = h("div.presets", {}, info.presets.filter((preset) => preset.label !== "best").map((preset) =>
      h("button", { type: "button", id: `preset-${preset.label}`, title: preset.about, onclick: () => send("go", preset) }, preset.label)), parts.best, parts.finding.button,
      h("span.gap"), parts.undo, parts.redo);
    const alone = h("div.alone", {}, h("span.label", {}, "use only"), info.vectors.map((vector) =>
      h("button", { type: "button", title: vector.name, onclick: () =>
        send("preset", { omegas: Object.fromEntries(info.vectors.map((one) => [one.name, one.name === vector.name ? 1 : 0])) }) },
        vector.name)));
    parts.panel = h("details.parameters", { hidden: true }, h("summary"), h("div"));
    root.replaceChildren(
      parts.banner, parts.formula,
      h("div.method", {}, h("label", { for: "method-choice" }, "method"), parts.select), parts.about, parts.refused,
      parts.membership, parts.list, parts.size, parts.presets, parts.finding.note, alone,
      h("p.hint", { id: "hint" }, "Drag a slider and watch the bars."), parts.panel,
      h("p.quiet", {}, `Not listed: ${info.elsewhere.join(" and ")}. They need statistics of each model. Run them with a recipe file and dem merge.`));
    return parts;
  }

  /* What a ticked vector counts: its last ω that was not 0, or 1. */
  function last(state, name) {
    const past = [...state.past].reverse().find((one) => one.omegas[name]);
    return past?.omegas[name] ?? 1;
  }

  function build_slider({ name, colour, adapter }, low, high, send, line) {
    const error = h("span.field-error", { role: "alert" });
    const move = (value) => send("omega", { name, value: Math.min(high, Math.max(low, value)) });
    const range = h("input", { type: "range", min: low, max: high, step: "0.0001", "aria-label": `ω of ${name}` });
    range.addEventListener("input", () => move(+range.value));
    holding(range, (held) => send("held", { held }));
    range.addEventListener("keydown", (event) => {
      const sign = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
      const here = line.state.omegas[name];
      let value = null;
      if (sign) value = here + sign * STEP * (event.shiftKey ? 10 : event.altKey ? 0.1 : 1);
      else if (event.key === "0") value = 0;
      else if (event.key === "Home") value = low;
      else if (event.key === "End") value = high;
      if (value === null || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      move(+value.toFixed(6)); // without the digits of 0.1 + 0.2
    });
    const box = text_box({ "aria-label": `ω of ${name}, number` }, (typed) => send("typed", { name, text: typed }), () => {
      send("left", { name });
      box.value = figures(line.state.omegas[name]);
    });
    box.addEventListener("focus", () => box.select());
    box.addEventListener("keydown", (event) => { if (event.key === "Escape") { box.dirty = false; box.blur(); } });
    const reset = h("button.reset", { type: "button", title: "back to 0", "aria-label": `ω of ${name} back to 0`, onclick: () => move(0) }, "↺");
    const strip = strips.build(low, high);
    const row = h(`div.omega.dataset-${colour}`, { "data-name": name }, h("span.who", { title: name }, swatch(colour), h("span", {}, name)), strip.root, range, box, reset, error);
    if (adapter) row.classList.add("adapter");
    return { row, range, box, error, low, high, strip };
  }

  function update(parts, state) {
    const method = state.info.methods.find((one) => one.name === state.method);
    banner(parts.banner, state);
    formula(parts.formula, state);
    if (parts.select.value !== state.method) parts.select.value = state.method;
    if (parts.method !== state.method) {
      about(parts.about, method);
      fields(parts, method, state);
      parts.method = state.method;
    }
    parts.list.hidden = !method?.weighted;
    parts.membership.hidden = method?.weighted ?? true;
    for (const [name, slider] of parts.sliders) slide(slider, state.omegas[name] ?? 0, state.errors[name]);
    strips.draw(parts.sliders, state, parts.size);
    finding.draw(parts.finding, state);
    for (const [name, box] of parts.members) box.checked = !!state.omegas[name];
    for (const [name, field] of parts.fields) field.update(state.parameters[name], state.errors[name]);
    parts.best.hidden = !state.best;
    parts.best.title = state.best?.about ?? "";
    parts.undo.disabled = !state.past.length;
    parts.redo.disabled = !state.future.length;
    refused(parts.refused, state);
  }

  function slide({ range, box, error, low, high }, value, problem) {
    if (range.omega !== value) {
      const at = (number) => `${((Math.min(high, Math.max(low, number)) - low) / (high - low)) * 100}%`;
      range.omega = value;
      range.style.setProperty("--at", at(value));
      range.style.setProperty("--zero", at(0));
      range.setAttribute("aria-valuetext", figures(value));
    }
    if (Math.abs(+range.value - value) > 5e-5) range.value = value;
    if (!problem && !writes(box, value) && box.value !== figures(value)) box.value = figures(value);
    box.toggleAttribute("aria-invalid", !!problem);
    text(error, problem ? `${problem}; ${figures(value)} is kept` : "");
  }

  /* A box whose text is given to `count` after a pause, on Enter, and when the box is left; empty text on Enter only. */
  function text_box(attributes, count, left) {
    const box = h("input.figures", { type: "text", inputmode: "decimal", autocomplete: "off", ...attributes });
    let pause = 0;
    const take = () => {
      clearTimeout(pause);
      const typed = box.dirty;
      box.dirty = false;
      if (typed) count(box.value);
    };
    box.addEventListener("input", () => {
      box.dirty = true;
      clearTimeout(pause);
      if (box.value.trim()) pause = setTimeout(take, PAUSE);
    });
    box.addEventListener("keydown", (event) => { if (event.key === "Enter") { box.dirty = true; take(); } });
    box.addEventListener("blur", () => {
      if (box.value.trim()) take();
      box.dirty = false;
      left();
    });
    return box;
  }

  /* Whether a hand writes in a box. Its text is the hand's then: also a number that counts already stays as it was typed, because
  writing it anew would take away the selection that the next key replaces. */
  const writes = (box, value) => document.activeElement === box && (box.dirty || number(box.value) === value);

  function banner(element, state) {
    const kind = state.server === "behind" || state.server === "gone" ? state.server : "";
    if (element.dataset.kind === kind && !(kind === "" && state.note !== element.dataset.note)) return;
    element.dataset.kind = kind;
    element.dataset.note = state.note;
    element.hidden = !kind && !state.note;
    element.replaceChildren();
    if (kind === "behind") {
      element.append(message("warning", "Other models are open", h("p", {}, "They were opened in another tab. These sliders belong to the models before; nothing is composed from them."),
        h("button", { type: "button", id: "catch-up", onclick: () => globalThis.dem.follow() }, "Show the open models")));
    } else if (kind === "gone") {
      element.append(message("warning", "The server does not answer", h("p", {}, "Your ω are kept. The page goes on as soon as the server is back.")));
    } else if (state.note) element.append(message("note", "", h("p", {}, state.note)));
  }

  /* The formula of the last settled recipe, with the ω of now: so it follows the hand without a question to the server. */
  function formula(element, state) {
    const known = state.settled?.formula ?? (plain(state) ? state.info.formula : null);
    const columns = known?.columns ?? true, parts = known?.parts ?? [{ text: "Θ" }];
    element.dataset.digest = state.settled?.digest ?? "";
    element.dataset.method = state.method;
    element.dataset.omegas = Object.values(state.omegas).join(" ");
    const shape = JSON.stringify([columns, parts.map((part) => ({ ...part, omega: part.omega === null }))]);
    if (element.shape !== shape) {
      element.shape = shape;
      element.className = `formula ${columns ? "columns" : "line"}`;
      element.terms = [];
      element.replaceChildren(...parts.map((part) => {
        if (part.text !== undefined) return h(columns && part.text.trim() ? "span.theta" : "span", {}, columns ? part.text.trim() : part.text);
        const sign = h("span.sign"), figure = h("b"), name = h("span.name", { title: part.name }, `${part.symbol}${part.name}`);
        if (part.omega === null) return h("span.term", { "data-term": part.name }, name);
        const term = h("span.term", { "data-term": part.name }, sign, figure, "·", name);
        element.terms.push({ part, term, sign, figure });
        return term;
      }));
    }
    for (const { part, term, sign, figure } of element.terms) {
      const omega = state.omegas[part.name] ?? part.omega;
      term.classList.toggle("zero", omega === 0);
      text(sign, part.signs[omega < 0 ? 1 : 0]);
      text(figure, figures(Math.abs(omega)));
    }
  }

  function about(element, method) {
    const notes = [];
    if (!method.weighted) notes.push("This method has no ω: all ticked vectors count equally.");
    if (method.most !== null || method.least > 1) {
      const many = `${method.most === method.least ? "exactly" : "at least"} ${method.least} vector${method.least > 1 ? "s" : ""}`;
      notes.push(`It takes ${many}${method.weighted ? "; set ω of the others to 0" : ""}.`);
    }
    element.replaceChildren(h("p.algebra", {}, method.formula), ...notes.map((note) => h("p", {}, note)));
  }

  function fields(parts, method, state) {
    const [summary, list] = parts.panel.children;
    parts.fields.clear();
    parts.panel.hidden = !method.parameters.length;
    text(summary, `parameters of ${method.name}`);
    list.replaceChildren(...method.parameters.map((param) => {
      const field = build_field(param);
      parts.fields.set(param.name, field);
      return field.row;
    }));
    // A parameter without a default waits for a value: it must not be folded away.
    if (method.parameters.some((param) => param.default === null && !(param.name in state.parameters))) parts.panel.open = true;
  }

  function build_field(param) {
    const send = (value) => globalThis.dem.line.event({ type: "parameter", name: param.name, value, at: now() });
    const id = `parameter-${param.name}`;
    const limits = param.low !== null && param.high !== null ? `; ${param.low} to ${param.high}` : "";
    const help = h("small", { id: `${id}-help` }, `${param.help}${limits}${param.per_vector ? "; same for all vectors" : ""}`);
    const error = h("span.field-error", { role: "alert" });
    let input, shown = [];
    if (param.kind === "word") input = h("select", { id, onchange: () => send(input.value) }, param.choices.map((choice) => h("option", { value: choice }, choice)));
    else if (param.kind === "tick") input = h("input", { id, type: "checkbox", onchange: () => send(input.checked) });
    else input = text_box({ id, placeholder: limits.slice(2) }, send, () => update(...shown));
    input.setAttribute("aria-describedby", help.id);
    const row = h("div.field", {}, h("label", { for: id }, param.name), input, help, error);
    const update = (value, problem) => {
      shown = [value, problem];
      const counts = value ?? param.default;
      if (param.kind === "tick") input.checked = !!counts;
      else if (!problem && !writes(input, counts)) {
        const wanted = counts === null ? "" : String(counts);
        if (input.value !== wanted) input.value = wanted;
      }
      input.toggleAttribute("aria-invalid", !!problem);
      text(error, problem ?? "");
    };
    return { row, update };
  }

  function refused(element, state) {
    const words = state.refused ? state.refused.message : "";
    if (element.dataset.words === words) return;
    element.dataset.words = words;
    element.replaceChildren();
    if (words) element.append(message("problem", "Change refused", h("p", {}, words)), h("p.kept", {}, "The composition before it is still in use."));
  }

  globalThis.dem.controls = controls;
})();
