/* Parallel coordinates: a line for each composition over its ω and losses. A drag along an axis keeps the lines that pass there. */
(() => {
  const { h, svg } = globalThis.dem.dom;
  const WIDTH = 960, HEIGHT = 220, TOP = 28, BOTTOM = 20, SIDE = 36;
  const MOST = 300; // lines; more are a grey area

  /* A picture whose brushes call `brushed` with a test for rows. An axis is { key, label, colour, of: row -> number }. */
  function build(brushed) {
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Parallel coordinates of the measured compositions" });
    const root = h("div.parallel", {}, picture);
    const own = { root, picture, brushes: new Map(), axes: [], rows: [], brushed };
    return own;
  }

  const keeps = (own) => (row) => own.axes.every((axis) => {
    const brush = own.brushes.get(axis.key);
    return !brush || (axis.of(row) >= brush[0] && axis.of(row) <= brush[1]);
  });

  function draw(own, axes, rows) {
    own.axes = axes;
    own.rows = rows.slice(0, MOST);
    const ends = (axis) => {
      const values = own.rows.map(axis.of), low = Math.min(...values), high = Math.max(...values);
      return high > low ? [low, high] : [low - 0.5, high + 0.5];
    };
    own.scales = axes.map((axis, place) => {
      const [low, high] = ends(axis), x = SIDE + (WIDTH - 2 * SIDE) * (axes.length > 1 ? place / (axes.length - 1) : 0.5);
      const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low);
      return { low, high, x, y, value: (at) => high - (at - TOP) / (HEIGHT - TOP - BOTTOM) * (high - low) };
    });
    paint(own);
  }

  function paint(own) {
    const { picture, axes, rows, scales, brushes } = own, kept = keeps(own);
    const path = (row) => axes.map((axis, i) => `${i ? "L" : "M"}${scales[i].x.toFixed(1)} ${scales[i].y(axis.of(row)).toFixed(1)}`).join("");
    // The best is the first row; it is drawn last, so that it lies on top.
    const lines = rows.map((row, place) => svg("path", { d: path(row), class: `${kept(row) ? "kept" : "gone"}${place ? "" : " first"}` })).reverse();
    const columns = axes.map((axis, i) => {
      const { x, low, high, y } = scales[i], brush = brushes.get(axis.key);
      const group = svg("g", { class: axis.colour === undefined ? "axis" : `axis dataset-${axis.colour}`, "data-axis": axis.key },
        svg("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }),
        svg("text", { x, y: 12, class: "name" }, axis.label),
        svg("text", { x, y: TOP - 4 }, high.toFixed(2)),
        svg("text", { x, y: HEIGHT - 6 }, low.toFixed(2)),
        svg("rect", { x: x - 14, width: 28, y: TOP - 4, height: HEIGHT - TOP - BOTTOM + 8, class: "grip" }));
      if (brush) group.append(svg("rect", { x: x - 6, width: 12, y: y(brush[1]), height: Math.max(2, y(brush[0]) - y(brush[1])), class: "brush" }));
      group.addEventListener("pointerdown", (event) => begin(own, i, event));
      return group;
    });
    picture.replaceChildren(...lines, ...columns);
  }

  /* A drag sets the range of an axis; a click alone takes it away. */
  function begin(own, place, event) {
    event.preventDefault();
    const { picture, axes, scales } = own, scale = scales[place], { key } = axes[place];
    const at = (moved) => {
      const box = picture.getBoundingClientRect();
      return Math.min(HEIGHT - BOTTOM, Math.max(TOP, (moved.clientY - box.top) / box.height * HEIGHT));
    };
    const start = at(event);
    const move = (moved) => {
      const end = at(moved);
      if (Math.abs(end - start) < 4) own.brushes.delete(key);
      else own.brushes.set(key, [scale.value(Math.max(start, end)), scale.value(Math.min(start, end))]);
      paint(own);
      own.brushed(keeps(own));
    };
    const stop = (moved) => {
      move(moved);
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", stop);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", stop);
  }

  globalThis.dem.parallel = { build, draw, keeps };
})();
