/* Preferences over the datasets, and two maps of the forecast: the front between two datasets, and the mean loss over two ω. */
(() => {
  const { h, svg, text, swatch, holding } = globalThis.dem.dom;
  const { number, plain } = globalThis.dem.state;
  const { best, front, FREE } = globalThis.dem.optimum;
  const SIZE = 240, EDGE = 34; // pixels of a square map, and of its margin for labels
  const CELLS = 24, LEVELS = 12; // of the map over two ω

  const square = (label) => svg("svg", { viewBox: `0 0 ${SIZE + EDGE} ${SIZE + EDGE}`, role: "img", "aria-label": label });

  /* A choice among names that keeps its value when the names change. */
  function choose(label, changed) {
    const select = h("select", { "aria-label": label, onchange: changed });
    const fill = (names, at) => {
      if (select.dataset.names === names.join("\n")) return;
      const kept = names.includes(select.value) ? select.value : names[Math.min(at, names.length - 1)];
      select.dataset.names = names.join("\n");
      select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
      select.value = kept;
    };
    return { select, fill };
  }

  function build(line, info) {
    const parts = { line, weights: new Map(), key: "", limits: FREE, none: false };
    const again = () => { parts.key = ""; draw(parts, line.state, parts.trials ?? [], parts.limits); };
    parts.rows = h("div.preferences");
    preferences(parts, info);
    parts.said = h("p.quiet", { role: "status" });
    parts.left = h("p.quiet", { id: "front-left-out" });
    [parts.first, parts.second] = ["first dataset", "second dataset"].map((label) => choose(label, again));
    [parts.across, parts.up] = ["ω across", "ω upwards"].map((label) => choose(label, again));
    parts.plane = square("Front between two datasets");
    parts.map = square("Predicted mean loss over two ω");
    parts.map.addEventListener("click", (event) => click(parts, event));
    parts.bars = h("div.importance");
    parts.root = h("div.landscape", {},
      h("section", {}, h("h3", {}, "Preferences"), parts.rows, parts.said, h("h3", {}, "What each ω decides"), parts.bars),
      h("section", {}, h("h3", {}, "Front between ", parts.first.select, " and ", parts.second.select), parts.plane,
        h("p.quiet", {}, "Measured: filled where no other is better on both, faint where “bounds and limits” forbid it. The line is predicted."), parts.left),
      h("section", {}, h("h3", {}, "Mean loss over ω of ", parts.across.select, " and ", parts.up.select), parts.map));
    return parts;
  }

  /* One slider and one floor for each dataset. Moving one sets the ω that the forecast expects to be best. */
  function preferences(parts, info) {
    parts.rows.append(...info.data.map(({ name, colour }) => {
      const range = h("input", { type: "range", min: 0, max: 3, step: 0.1, value: 1, "aria-label": `weight of ${name}` });
      const floor = h("input.figures", { type: "text", inputmode: "decimal", placeholder: "–", "aria-label": `least share of ${name}, in percent` });
      const shown = h("b.num", {}, "1.0");
      const own = { range, floor, shown };
      parts.weights.set(name, own);
      holding(range, (held) => parts.line.event({ type: "held", held })); // so a drag, however slow, is one step
      range.addEventListener("input", () => {
        text(shown, (+range.value).toFixed(1));
        prefer(parts);
      });
      floor.addEventListener("change", () => prefer(parts));
      return h(`div.preference.dataset-${colour}`, {}, h("span.who", {}, swatch(colour), h("span", { title: name }, name)), range, shown, h("span.least", {}, "≥", floor, "%"));
    }));
  }

  function prefer(parts) {
    const { line } = parts, { forecast } = line.state;
    if (!forecast?.fits(line.state)) return;
    const wanted = Object.fromEntries([...parts.weights].map(([name, { range, floor }]) => {
      const least = floor.value.trim() ? number(floor.value.replace("%", "")) : null;
      floor.toggleAttribute("aria-invalid", floor.value.trim() !== "" && least === null);
      return [name, { weight: +range.value, floor: least === null ? null : least / 100 }];
    }));
    const { limits } = parts, { x } = best(forecast, wanted, limits);
    parts.none = !x;
    text(parts.said, words(parts, line.state, forecast));
    if (!x) return;
    const frozen = (name) => limits.bounds[name] && limits.bounds[name][0] === limits.bounds[name][1]; // keeps all its digits
    const omegas = Object.fromEntries(forecast.names.map((name, i) => [name, x[i]]).filter(([name]) => !frozen(name)));
    line.event({ type: "omegas", omegas, run: "preferences", at: performance.now() });
  }

  /* What the preferences do, or why they do nothing. */
  function words({ none, limits }, state, forecast) {
    if (!forecast) return plain(state) ? "Too little was measured to predict. Move a few sliders, or press Find ω." : "Predictions are for task_arithmetic without parameters.";
    if (none) return `The sliders stay: near what was measured, every composition for these weights is outside of what “bounds and limits” allow${limits.spares ? ", or expected to make a dataset worse than the base" : ""}. Measure more, or allow more.`;
    return `Sets the ω that are expected to be best for these weights, from ${forecast.count} compositions and within their range and “bounds and limits”${limits.spares ? ", with no dataset expected to be worse than the base" : ""}. ≥ is the least share.`;
  }

  /* What the front leaves out; "" if nothing. */
  function left_out(rows) {
    const out = rows.filter((one) => one.worse.length), names = [...new Set(out.flatMap((one) => one.worse))];
    const instead = out.filter((one) => one.x).length;
    return out.length ? `${out.length} of ${rows.length} predicted compositions are left out: they are expected to be worse than the base on ${names.join(", ")}. `
      + `The best that is allowed takes the place of ${instead === out.length ? "each" : instead || "none"}.` : "";
  }

  /* `limits`: what is allowed; see optimum.js. */
  function draw(parts, state, trials, limits) {
    const forecast = state.forecast?.fits(state) ? state.forecast : null;
    parts.trials = trials;
    const names = state.info.vectors.map((vector) => vector.name), datasets = state.info.data.map((dataset) => dataset.name);
    parts.first.fill(datasets, 0);
    parts.second.fill(datasets, 1);
    parts.across.fill(names, 0);
    parts.up.fill(names, 1);
    for (const { range, floor } of parts.weights.values()) range.disabled = floor.disabled = !forecast;
    const asked = JSON.stringify(limits);
    if (parts.forecast !== forecast || parts.asked !== asked) parts.none = false;
    Object.assign(parts, { limits, asked });
    text(parts.said, words(parts, state, forecast));
    const key = JSON.stringify([state.omegas, trials.length, asked]);
    if (parts.key === key && parts.forecast === forecast) return;
    [parts.key, parts.forecast] = [key, forecast];
    draw_plane(parts, state, forecast, trials);
    draw_map(parts, state, forecast, trials);
    draw_importance(parts, state, forecast);
  }

  function scale(values) {
    const low = Math.min(...values), high = Math.max(...values), pad = (high - low || 1) * 0.06;
    return [low - pad, high + pad];
  }

  function frame(picture, [left, right], [bottom, top], across, up) {
    const x = (value) => EDGE + (value - left) / (right - left) * SIZE, y = (value) => SIZE - (value - bottom) / (top - bottom) * SIZE;
    const label = (at, words, props) => svg("text", { ...at, ...props }, words);
    picture.replaceChildren(svg("rect", { x: EDGE, y: 0, width: SIZE, height: SIZE, class: "field" }),
      label({ x: EDGE, y: SIZE + 14 }, left.toFixed(2)), label({ x: EDGE + SIZE, y: SIZE + 14 }, right.toFixed(2), { "text-anchor": "end" }),
      label({ x: EDGE + SIZE / 2, y: SIZE + 28 }, across, { "text-anchor": "middle" }),
      label({ x: EDGE - 4, y: SIZE }, bottom.toFixed(2), { "text-anchor": "end" }), label({ x: EDGE - 4, y: 10 }, top.toFixed(2), { "text-anchor": "end" }),
      label({ x: 10, y: SIZE / 2, transform: `rotate(-90 10 ${SIZE / 2})` }, up, { "text-anchor": "middle" }));
    return { x, y };
  }

  /* The front of the chosen pair; sought again only for another forecast, pair or limit, because it takes some frames. */
  function curve_of(parts, forecast, first, second) {
    if (!forecast || first === second) return { points: [], left: "" };
    const { limits, asked, curve: last } = parts;
    if (last?.forecast === forecast && last.first === first && last.second === second && last.asked === asked) return last;
    const loss = (x, name) => forecast.datasets.get(name).at(x).loss, rows = front(forecast, first, second, limits);
    const points = rows.filter(({ x }) => x).map(({ x }) => ({ omegas: x, x: loss(x, first), y: loss(x, second),
      errors: [first, second].map((name) => forecast.datasets.get(name).error(x)) }));
    parts.curve = { forecast, first, second, asked, points, left: left_out(rows) };
    return parts.curve;
  }

  /* The points that no other one beats: from left to right, those that are lower than all before them. */
  function leaders(pairs) {
    const found = new Set();
    let lowest = Infinity;
    for (const one of [...pairs].sort((a, b) => a.x - b.x || a.y - b.y)) {
      if (one.y < lowest) found.add(one);
      lowest = Math.min(lowest, one.y);
    }
    return found;
  }

  function draw_plane(parts, state, forecast, trials) {
    const { plane, first, second, line } = parts;
    const names = state.info.data.map((dataset) => dataset.name), [a, b] = [names.indexOf(first.select.value), names.indexOf(second.select.value)];
    const pairs = trials.map((trial) => ({ trial, x: trial.losses[a], y: trial.losses[b] }));
    const loss = (x, name) => forecast.datasets.get(name).at(x).loss;
    const { points: curve, left } = curve_of(parts, forecast, names[a], names[b]);
    text(parts.left, left);
    // Hollow where one standard error is more than a tenth of the picture.
    const doubt = (one, span) => one.errors.some((error, axis) => error > 0.1 * span[axis]);
    const now = forecast ? [{ x: loss(forecast.place(state.omegas), names[a]), y: loss(forecast.place(state.omegas), names[b]) }] : [];
    const all = [...pairs, ...curve, ...now];
    if (!all.length) return plane.replaceChildren();
    const [wide, tall] = [scale(all.map((one) => one.x)), scale(all.map((one) => one.y))], span = [wide[1] - wide[0], tall[1] - tall[0]];
    const to = frame(plane, wide, tall, `loss on ${names[a]}`, `loss on ${names[b]}`);
    const go = (omegas, words, made) => {
      made.append(svg("title", {}, words));
      made.addEventListener("click", () => line.event({ type: "omegas", omegas, run: null, at: performance.now() }));
      return made;
    };
    const named = (values) => Object.fromEntries(state.info.vectors.map((vector, i) => [vector.name, +values[i].toFixed(4)]));
    const ahead = leaders(pairs.filter(({ trial }) => trial.rank !== null));
    plane.append(...pairs.map((one) => go(named(one.trial.omegas), `measured, mean loss ${one.trial.mean.toFixed(3)}${ahead.has(one) ? "; no other is better on both" : one.trial.rank === null ? "; not allowed" : ""}`,
      svg("circle", { cx: to.x(one.x), cy: to.y(one.y), r: ahead.has(one) ? 4 : 3, class: `measured${ahead.has(one) ? " leads" : one.trial.rank === null ? " barred" : ""}` }))));
    if (curve.length) plane.append(svg("path", { d: curve.map(({ x, y }, i) => `${i ? "L" : "M"}${to.x(x)} ${to.y(y)}`).join(""), class: "curve" }));
    plane.append(...curve.map((one) => go(named(one.omegas), "predicted", svg("circle", { cx: to.x(one.x), cy: to.y(one.y), r: 4, class: doubt(one, span) ? "ahead doubtful" : "ahead" }))));
    plane.append(...now.map(({ x, y }) => svg("circle", { cx: to.x(x), cy: to.y(y), r: 6, class: "now" })));
  }

  function draw_map(parts, state, forecast, trials) {
    const { map, across, up } = parts, names = state.info.vectors.map((vector) => vector.name);
    const [a, b] = [names.indexOf(across.select.value), names.indexOf(up.select.value)];
    if (!forecast || a === b) return map.replaceChildren();
    const range = (i) => [Math.min(forecast.low[i], state.omegas[names[i]]) - 0.05, Math.max(forecast.high[i], state.omegas[names[i]]) + 0.05];
    parts.ranges = [range(a), range(b)];
    const to = frame(map, ...parts.ranges, `ω of ${names[a]}`, `ω of ${names[b]}`);
    const middle = ([low, high], i) => low + (high - low) * (i + 0.5) / CELLS;
    const rows = Array.from({ length: CELLS }, (_, i) => forecast.along({ ...state.omegas, [names[b]]: middle(parts.ranges[1], i) }, names[a],
      Array.from({ length: CELLS }, (__, j) => middle(parts.ranges[0], j))));
    const low = Math.min(...rows.flat()), high = Math.max(...rows.flat()), side = SIZE / CELLS;
    // In steps, so that their edges are contours.
    rows.forEach((row, i) => row.forEach((score, j) => {
      const level = Math.min(LEVELS - 1, Math.floor((score - low) / (high - low || 1) * LEVELS)) / (LEVELS - 1);
      map.append(svg("rect", { x: EDGE + j * SIZE / CELLS, y: SIZE - (i + 1) * SIZE / CELLS, width: side, height: side, class: "cell", "fill-opacity": (0.04 + 0.8 * level).toFixed(3) }));
    }));
    map.append(...trials.map((trial) => svg("circle", { cx: to.x(trial.omegas[a]), cy: to.y(trial.omegas[b]), r: 3, class: "measured" })));
    map.append(svg("circle", { cx: to.x(state.omegas[names[a]]), cy: to.y(state.omegas[names[b]]), r: 6, class: "now" }));
  }

  /* A click on the map sets its two ω. */
  function click({ map, across, up, ranges, line, forecast }, event) {
    const box = map.getBoundingClientRect(), unit = (SIZE + EDGE) / box.width;
    const [x, y] = [((event.clientX - box.left) * unit - EDGE) / SIZE, 1 - (event.clientY - box.top) * unit / SIZE];
    if (!forecast || !ranges || x < 0 || x > 1 || y < 0 || y > 1) return;
    const value = ([low, high], part) => +(low + (high - low) * part).toFixed(4);
    const omegas = { [across.select.value]: value(ranges[0], x), [up.select.value]: value(ranges[1], y) };
    line.event({ type: "omegas", omegas, run: null, at: performance.now() });
  }

  /* By how much the mean loss changes along each ω, over the range that was measured. */
  function draw_importance({ bars }, state, forecast) {
    if (!forecast) return bars.replaceChildren();
    const spans = forecast.names.map((name, i) => {
      const values = Array.from({ length: 21 }, (_, place) => forecast.low[i] + (forecast.high[i] - forecast.low[i]) * place / 20);
      const scores = forecast.along(state.omegas, name, values);
      return { name, span: Math.max(...scores) - Math.min(...scores) };
    });
    const most = Math.max(...spans.map((one) => one.span), 1e-9);
    const colours = new Map(state.info.vectors.map((vector) => [vector.name, vector.colour]));
    bars.replaceChildren(...spans.sort((one, other) => other.span - one.span).map(({ name, span }) =>
      h(`div.dataset-${colours.get(name)}`, {}, h("span.who", {}, swatch(colours.get(name)), h("span", { title: name }, name)),
        h("i.span", { style: `width:${100 * span / most}%` }), h("b.num", {}, span.toFixed(3)))));
  }

  globalThis.dem.front = { build, draw, leaders, left_out };
})();
