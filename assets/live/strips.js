/* The strip behind each slider: how much lower than the base's the mean loss is expected to be along this ω, with the others as they
stand. All strips have one scale, so a high one matters more. And the arrow below: which way, and how steeply, it falls from here.
Above the strip is the cosine of the whole Σ ωᵢ Δᵢ to this vector. */
(() => {
  const { h, svg, text } = globalThis.dem.dom;
  const SAMPLES = 31, WIDTH = 100, HEIGHT = 32;
  const ARROW = 28; // pixels of the longest arrow

  function build(low, high) {
    const [outside, inside] = ["outside", "inside"].map((name) => svg("path", { class: name }));
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" }, outside, inside);
    const arrow = h("i", { hidden: true });
    const cosine = h("small"); // of the sum of all vectors
    const root = h("div.strip", { "aria-hidden": "true" }, picture, arrow, cosine);
    const values = Array.from({ length: SAMPLES }, (_, place) => low + (high - low) * place / (SAMPLES - 1));
    return { root, inside, outside, arrow, cosine, values };
  }

  /* An area under heights from 0 to 1, of the values for which `counts` holds. */
  function area(values, heights, counts) {
    let path = "", open = null;
    values.forEach((value, place) => {
      const x = WIDTH * place / (values.length - 1), y = HEIGHT * (1 - heights[place]);
      if (counts(value)) path += open === null ? `M${x} ${HEIGHT}L${x} ${y.toFixed(2)}` : `L${x} ${y.toFixed(2)}`;
      else if (open !== null) path += `L${open} ${HEIGHT}Z`;
      open = counts(value) ? x : null;
    });
    return open === null ? path : `${path}L${open} ${HEIGHT}Z`;
  }

  let drawn = new WeakMap(); // sliders -> what they show

  /* The cosines, and in `size` how long the sum of the vectors is. */
  function angles(sliders, state, size) {
    const known = state.forecast?.of(state) ? state.forecast.geometry(state.omegas) : null;
    for (const [name, { strip }] of sliders) {
      const cosine = known?.cosines[name];
      text(strip.cosine, Number.isFinite(cosine) ? `cos ${cosine < 0 ? "−" : ""}${Math.abs(cosine).toFixed(2)}` : "");
    }
    text(size, known ? `‖Σ ωᵢ Δᵢ‖ is ${(100 * known.norm).toFixed(1)} % of ‖Θ‖` : "");
  }

  function draw(sliders, state, size) {
    angles(sliders, state, size);
    const forecast = state.forecast?.fits(state) ? state.forecast : null;
    const key = forecast && JSON.stringify(state.omegas), last = drawn.get(sliders);
    if (last?.forecast === forecast && last?.key === key) return;
    drawn.set(sliders, { forecast, key });
    if (!forecast) {
      for (const { strip } of sliders.values()) {
        strip.inside.setAttribute("d", "");
        strip.outside.setAttribute("d", "");
        strip.arrow.hidden = true;
      }
      return;
    }
    const floor = forecast.score(forecast.place({})), slopes = forecast.slopes(state.omegas);
    const names = [...sliders.keys()], scores = forecast.lines(state.omegas, names, [...sliders.values()][0].strip.values);
    const rows = names.map((name, row) => {
      const { strip } = sliders.get(name);
      const which = forecast.names.indexOf(name);
      const trusted = (value) => forecast.trusts(which, value);
      return { name, strip, trusted, gains: Array.from(scores[row], (score) => score - floor) };
    });
    const top = Math.max(1e-6, ...rows.flatMap(({ strip, trusted, gains }) => gains.filter((_, place) => trusted(strip.values[place]))));
    const steepest = Math.max(...Object.values(slopes).map(Math.abs), 1e-9);
    for (const { name, strip, trusted, gains } of rows) {
      const heights = gains.map((gain) => Math.min(1, Math.max(0, gain / top)));
      strip.inside.setAttribute("d", area(strip.values, heights, trusted));
      strip.outside.setAttribute("d", area(strip.values, heights, () => true));
      point(strip, state.omegas[name], slopes[name], steepest, top);
    }
  }

  /* An arrow that would gain less than a hundredth of what there is to gain, over a tenth of ω, is none. */
  function point({ arrow, values }, omega, slope, steepest, top) {
    const flat = Math.abs(slope) * 0.1 < 0.01 * top;
    arrow.hidden = flat;
    if (flat) return;
    const [low, high] = [values[0], values.at(-1)];
    arrow.className = slope < 0 ? "down" : "up";
    arrow.style.left = `${(Math.min(high, Math.max(low, omega)) - low) / (high - low) * 100}%`;
    arrow.style.width = `${Math.max(4, ARROW * Math.abs(slope) / steepest)}px`;
  }

  globalThis.dem.strips = { build, draw };
})();
