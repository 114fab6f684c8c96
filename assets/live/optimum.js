/* What follows from a forecast without another evaluation: the best ω for any preference over the datasets, and the front between
two of them. */
(() => {
  const STEPS = 120;
  const STARTS = 4; // measured points at which a minimisation begins
  const RADIUS = 0.3; // how far from such a point an ω is sought, as in evaluation/search/surrogate.py
  const OTHERS = 0.02; // the weight of the other datasets on the front between two
  const FLOOR_COST = 10; // what a whole share below a floor costs, in shares
  const WORSE_COST = 30; // what the square of a share above the base's loss costs, in shares: of 10, 30, 100 and 300 the best on the demo
  const HALVINGS = 16; // of the way back to where no dataset is worse than the base

  /* Minimises a function with derivatives in a box, by projected gradients with steps of Barzilai and Borwein (1988), each halved
  until it is lower. */
  function minimise(f, start, low, high) {
    const inside = (x) => x.map((value, i) => Math.min(high[i], Math.max(low[i], value)));
    let x = inside(start), here = f(x), size = 0.1;
    for (let step = 0; step < STEPS; step += 1) {
      let next = null, there = null;
      for (; size > 1e-7; size /= 2) {
        next = inside(x.map((value, i) => value - size * here.slope[i]));
        there = f(next);
        if (there.value < here.value - 1e-12) break;
      }
      if (size <= 1e-7) break;
      const moved = next.map((value, i) => value - x[i]), bent = moved.map((_, i) => there.slope[i] - here.slope[i]);
      const square = moved.reduce((sum, value) => sum + value * value, 0), dot = moved.reduce((sum, value, i) => sum + value * bent[i], 0);
      [x, here] = [next, there];
      if (square < 1e-14) break;
      size = dot > 1e-12 ? Math.min(10, square / dot) : Math.min(10, size * 2);
    }
    return { x, value: here.value };
  }

  /* Minus the weighted mean share of gain, with a penalty for each share below its floor and, if `limited`, for each loss above the
  base's. A dataset without an expert counts by its loss. `wanted` is dataset -> { weight, floor }, floor null for none. */
  function objective(forecast, wanted, limited) {
    const total = [...forecast.datasets.keys()].reduce((sum, name) => sum + (wanted[name]?.weight ?? 0), 0) || 1;
    return (x) => {
      let value = 0;
      const slope = new Array(x.length).fill(0);
      for (const [name, surrogate] of forecast.datasets) {
        const { weight = 0, floor = null } = wanted[name] ?? {};
        const there = surrogate.at(x), share = surrogate.share(there.loss), width = share === null ? 1 : surrogate.base - surrogate.expert;
        let by = weight / total / width;
        value += share === null ? there.loss * weight / total : -share * weight / total;
        if (floor !== null && share !== null && share < floor) {
          value += FLOOR_COST * (floor - share);
          by += FLOOR_COST / width;
        }
        const above = limited && surrogate.base !== null ? Math.max(0, there.loss - surrogate.base) / width : 0;
        value += WORSE_COST * above * above;
        by += 2 * WORSE_COST * above / width;
        there.slope.forEach((each, i) => { slope[i] += by * each; });
      }
      return { value, slope };
    };
  }

  /* The datasets that are expected to be worse than the base. */
  const worse = (forecast, x) => [...forecast.datasets].filter(([, surrogate]) => surrogate.at(x).loss > surrogate.highest).map(([name]) => name);

  /* As the sliders get them, so that what is allowed stays so. */
  const rounded = (x) => x.map((value) => +value.toFixed(4));

  /* The last point on the way from one that is allowed to one that is not; null if the first is not either. */
  function back(allowed, from, to) {
    const at = (part) => rounded(from.map((value, i) => value + part * (to[i] - value)));
    if (!allowed(at(0))) return null;
    let [good, bad] = [0, 1];
    for (let step = 0; step < HALVINGS; step += 1) {
      const middle = (good + bad) / 2;
      if (allowed(at(middle))) good = middle;
      else bad = middle;
    }
    return at(good);
  }

  /* The best ω for a preference: { x, worse }, `worse` the datasets for which a better one was left out. It is sought near the
  measured points that are best for it, within the measured range: farther away the losses are predicted less well, and an optimum
  would be one of their errors. If `limited`, no dataset may be worse than the base; x is null where nothing else was found. */
  function best(forecast, wanted, limited = false) {
    const lowest = (f, allowed) => {
      const measured = forecast.points.map((x) => ({ x, value: f(x).value })).sort((one, other) => one.value - other.value);
      const found = measured.slice(0, STARTS).flatMap(({ x: start }) => {
        const low = start.map((value, i) => Math.max(forecast.low[i], value - RADIUS)), high = start.map((value, i) => Math.min(forecast.high[i], value + RADIUS));
        const x = rounded(minimise(f, start, low, high).x), kept = allowed(x) ? x : back(allowed, start, x);
        return kept ? [{ x: kept, value: f(kept).value }] : [];
      });
      return found.length ? found.reduce((one, other) => (other.value < one.value ? other : one)).x : null;
    };
    const free = lowest(objective(forecast, wanted, false), () => true), broken = limited ? worse(forecast, free) : [];
    return { x: broken.length ? lowest(objective(forecast, wanted, true), (x) => !worse(forecast, x).length) : free, worse: broken };
  }

  /* The front between two datasets: for each balance of the two what `best` returns. The others count a little, so that they are
  not given away for nothing. */
  function front(forecast, first, second, limited = false, count = 13) {
    return Array.from({ length: count }, (_, place) => {
      const part = place / (count - 1);
      const wanted = Object.fromEntries([...forecast.datasets.keys()].map((name) => [name, { weight: OTHERS }]));
      wanted[first] = { weight: 1 - part + OTHERS };
      wanted[second] = { weight: part + OTHERS };
      return best(forecast, wanted, limited);
    });
  }

  globalThis.dem.optimum = { minimise, best, worse, front };
})();
