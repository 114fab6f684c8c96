/* What follows from a forecast without another evaluation: the best ω for any preference over the datasets, and the front between
two of them. */
(() => {
  const STEPS = 120;
  const STARTS = 4; // measured points at which a minimisation begins
  const RADIUS = 0.3; // how far from such a point an ω is sought, as in evaluation/search/surrogate.py
  const OTHERS = 0.02; // the weight of the other datasets on the front between two
  const FLOOR_COST = 10; // what a whole share below a floor costs, in shares
  const WORSE_COST = 30; // what the square of a share above the base's loss costs, in shares: of 10, 30, 100 and 300 the best on the demo
  const ROUNDS = 8, STIFFNESS = 10; // of the multipliers of limits; in shares
  const ROUNDING = 0.00005 + 1e-9;
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

  /* What is allowed: `bounds`, vector -> [lowest, highest] ω; at most `sum` for Σω and at most `norm` for ‖ΔΘ‖ / ‖Θ‖ (null: no limit);
  and, if `spares`, no dataset worse than the base. The norm counts where the vectors' inner products are known. */
  const FREE = { bounds: {}, sum: null, norm: null, spares: false };

  const sum_of = (x) => x.reduce((total, value) => total + value, 0);

  /* Whether a point is within the bounds and keeps Σω and the norm. An ω with four digits may be outside by their rounding, and decimals
  such as 0.1 + 0.2 above their sum. */
  function keeps(forecast, { bounds, sum, norm }, x) {
    const inside = forecast.names.every((name, i) => !bounds[name] || (x[i] >= bounds[name][0] - ROUNDING && x[i] <= bounds[name][1] + ROUNDING));
    return inside && (sum === null || sum_of(x) <= sum + 1e-9) && (norm === null || !forecast.gram || forecast.norm(x).value <= norm + 1e-9);
  }

  /* By how much a point exceeds Σω and the norm, each in its own unit, with the derivatives. */
  function excesses(forecast, { sum, norm }) {
    const found = [];
    if (sum !== null) found.push((x) => ({ value: sum_of(x) - sum, slope: x.map(() => 1) }));
    if (norm !== null && forecast.gram) found.push((x) => {
      const here = forecast.norm(x);
      return { value: here.value / norm - 1, slope: here.slope.map((each) => each / norm) };
    });
    return found;
  }

  /* The minimum of a function in a box where some excesses are at most 0: by multipliers (Hestenes, 1969), so that no penalty has to be
  so stiff that the descent creeps. */
  function minimise_within(f, over, start, low, high) {
    let { x } = minimise(f, start, low, high);
    const multipliers = over.map(() => 0);
    for (let round = 0; round < ROUNDS && (round || over.some((excess) => excess(x).value > 0)); round += 1) {
      const held = (at) => {
        const here = f(at), slope = [...here.slope];
        let { value } = here;
        over.forEach((excess, which) => {
          const there = excess(at), force = Math.max(0, multipliers[which] + STIFFNESS * there.value);
          value += force * force / 2 / STIFFNESS;
          there.slope.forEach((each, i) => { slope[i] += force * each; });
        });
        return { value, slope };
      };
      ({ x } = minimise(held, x, low, high));
      over.forEach((excess, which) => { multipliers[which] = Math.max(0, multipliers[which] + STIFFNESS * excess(x).value); });
    }
    return x;
  }

  /* Minus the weighted mean share of gain, with a penalty for each share below its floor and, if `spares`, for each loss above the
  base's. A dataset without an expert counts by its loss. `wanted` is dataset -> { weight, floor }, floor null for none. */
  function objective(forecast, wanted, spares) {
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
        const above = spares && surrogate.base !== null ? Math.max(0, there.loss - surrogate.base) / width : 0;
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

  /* A point if it is allowed; else the last allowed one on the way to it; null if the way begins at one that is not allowed. */
  function back_to(allowed, from, to) {
    if (allowed(to)) return to;
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

  /* Where the search for an optimum goes: the measured range within the bounds. An ω whose bounds are outside of the range, such as
  one that is frozen there, has only its bounds. */
  function box(forecast, { bounds }) {
    return forecast.names.map((name, i) => {
      const [least, most] = [forecast.low[i], forecast.high[i]], [from, to] = bounds[name] ?? [least, most];
      if (from > most) return [from, from];
      if (to < least) return [to, to];
      return [Math.max(least, from), Math.min(most, to)];
    });
  }

  /* The best ω for a preference: { x, worse }, `worse` the datasets for which a better one was left out. It is sought near the
  measured points that are best for it, within the measured range: farther away the losses are predicted less well, and an optimum
  would be one of their errors. x is null where nothing that is allowed was found. */
  function best(forecast, wanted, limits = FREE) {
    const ends = box(forecast, limits), clamped = (x) => rounded(x.map((value, i) => Math.min(ends[i][1], Math.max(ends[i][0], value))));
    const centre = clamped(ends.map(() => 0)), over = excesses(forecast, limits), kept = (x) => keeps(forecast, limits, x);
    if (!kept(centre)) return { x: null, worse: [] };
    const lowest = (f, allowed) => {
      const measured = forecast.points.map((x) => back_to(kept, centre, clamped(x))).map((x) => ({ x, value: f(x).value })).sort((one, other) => one.value - other.value);
      const found = measured.slice(0, STARTS).flatMap(({ x: start }) => {
        const low = start.map((value, i) => Math.max(ends[i][0], value - RADIUS)), high = start.map((value, i) => Math.min(ends[i][1], value + RADIUS));
        const x = back_to(allowed, start, rounded(minimise_within(f, over, start, low, high)));
        return x ? [{ x, value: f(x).value }] : [];
      });
      return found.length ? found.reduce((one, other) => (other.value < one.value ? other : one)).x : null;
    };
    const free = lowest(objective(forecast, wanted, false), kept), broken = limits.spares ? worse(forecast, free) : [];
    return { x: broken.length ? lowest(objective(forecast, wanted, true), (x) => kept(x) && !worse(forecast, x).length) : free, worse: broken };
  }

  /* The front between two datasets: for each balance of the two what `best` returns. The others count a little, so that they are
  not given away for nothing. */
  function front(forecast, first, second, limits = FREE, count = 13) {
    return Array.from({ length: count }, (_, place) => {
      const part = place / (count - 1);
      const wanted = Object.fromEntries([...forecast.datasets.keys()].map((name) => [name, { weight: OTHERS }]));
      wanted[first] = { weight: 1 - part + OTHERS };
      wanted[second] = { weight: part + OTHERS };
      return best(forecast, wanted, limits);
    });
  }

  globalThis.dem.optimum = { minimise, best, worse, front, keeps, FREE };
})();
