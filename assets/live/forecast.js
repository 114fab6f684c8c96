/* Predicts the losses of any slider position from what the server sends of its surrogates, so that a prediction follows the hand
without a question. The mean is that of evaluation/landscape/loss_surrogate.py, as a sum of few terms; the error is computed here
from the measured points, as the error of a Gaussian process whose quadratic part has random coefficients (Rasmussen and Williams,
2006, eq. 2.42): Var = 1 − ‖L⁻¹b‖² + gᵀ(P⁻¹ + UᵀU)⁻¹g, where R = LLᵀ is the covariance of the remainder at the measured points,
b that with the new point, U = L⁻¹H with their features H, and g = φ − Uᵀ(L⁻¹b). */
(() => {
  const CONSTANT = 1e4, LINEAR = 1e2; // variances of these coefficients, as in evaluation/landscape/kernel.py
  const EDGE = 0.05; // how far outside the measured range of an ω a prediction is still trusted

  /* The lower triangle L with LLᵀ = matrix, as rows. */
  function cholesky(matrix) {
    const lower = [];
    for (let i = 0; i < matrix.length; i += 1) {
      const row = new Float64Array(i + 1);
      for (let j = 0; j <= i; j += 1) {
        let sum = matrix[i][j];
        const other = j === i ? row : lower[j];
        for (let k = 0; k < j; k += 1) sum -= row[k] * other[k];
        row[j] = j === i ? Math.sqrt(Math.max(sum, 1e-300)) : sum / other[j];
      }
      lower.push(row);
    }
    return lower;
  }

  /* L⁻¹·vector, for a lower triangle of rows. */
  function solve(lower, vector) {
    const out = new Float64Array(vector.length);
    for (let i = 0; i < out.length; i += 1) {
      const row = lower[i];
      let sum = vector[i];
      for (let k = 0; k < i; k += 1) sum -= row[k] * out[k];
      out[i] = sum / row[i];
    }
    return out;
  }

  /* 1, xᵢ, and xᵢxⱼ for i ≤ j. */
  function features(x) {
    const out = [1, ...x];
    for (let i = 0; i < x.length; i += 1) for (let j = i; j < x.length; j += 1) out.push(x[i] * x[j]);
    return out;
  }

  /* The derivative of the features with respect to one coordinate. */
  function slope_of_features(x, which) {
    const out = new Array(1 + x.length).fill(0);
    out[1 + which] = 1;
    for (let i = 0; i < x.length; i += 1) for (let j = i; j < x.length; j += 1) out.push((i === which ? x[j] : 0) + (j === which ? x[i] : 0));
    return out;
  }

  /* The numbers that were measured: first the loss of each point, then the derivatives of the points that have them. */
  function rows_of({ points, sloped }) {
    const rows = points.map((x) => ({ x, which: -1 }));
    points.forEach((x, place) => { if (sloped[place]) x.forEach((_, which) => rows.push({ x, which })); });
    return rows;
  }

  /* The covariance of the remainder between two of them; see `smooth` in kernel.py. */
  function covariance(one, other, length) {
    let square = 0;
    for (let i = 0; i < one.x.length; i += 1) square += (one.x[i] - other.x[i]) ** 2;
    const k = Math.exp(-0.5 * square / length ** 2);
    const apart = (which) => (one.x[which] - other.x[which]) / length ** 2;
    if (one.which < 0 && other.which < 0) return k;
    if (one.which < 0) return k * apart(other.which);
    if (other.which < 0) return -k * apart(one.which);
    return k * ((one.which === other.which ? 1 / length ** 2 : 0) - apart(one.which) * apart(other.which));
  }

  /* The surrogate of one dataset. */
  class Surrogate {
    constructor(shared, own) {
      Object.assign(this, own);
      this.shared = shared;
    }

    /* The quadratic part at x with its derivatives; and from each measured point the squared distance and the height of its bump.
    A loss, and all lines through x, follow from these. */
    sums(x) {
      const { points } = this.shared, inverse = 1 / this.length ** 2, slope = Float64Array.from(this.linear);
      let value = this.constant;
      x.forEach((omega, i) => {
        const bent = this.curvature[i].reduce((sum, curve, j) => sum + curve * x[j], 0);
        value += omega * (this.linear[i] + 0.5 * bent);
        slope[i] += bent;
      });
      const squares = new Float64Array(points.length), heights = Float64Array.from(this.values);
      points.forEach((point, p) => {
        for (let i = 0; i < x.length; i += 1) {
          const d = x[i] - point[i];
          squares[p] += d * d;
          heights[p] += d * inverse * this.slopes[p][i];
        }
      });
      return { value, slope, squares, heights };
    }

    /* The expected loss at x, and its derivatives. */
    at(x) {
      const { points } = this.shared, inverse = 1 / this.length ** 2;
      const { value, slope, squares, heights } = this.sums(x);
      let loss = value;
      points.forEach((point, p) => {
        const bump = Math.exp(-0.5 * squares[p] * inverse), height = heights[p], slopes = this.slopes[p];
        loss += bump * height;
        for (let i = 0; i < x.length; i += 1) slope[i] += bump * inverse * (slopes[i] - height * (x[i] - point[i]));
      });
      return { loss, slope };
    }

    /* The expected losses at equally spaced values of one coordinate, all others as in x. From one value to the next a bump grows by
    a ratio that itself changes by a constant one, so no exponential is taken for each. */
    along(x, which, values, { value, slope, squares, heights } = this.sums(x)) {
      const { points } = this.shared, inverse = 1 / this.length ** 2, curve = this.curvature[which][which];
      const out = Float64Array.from(values, (to) => value + (to - x[which]) * (slope[which] + 0.5 * curve * (to - x[which])));
      const step = values.length > 1 ? values[1] - values[0] : 0, change = Math.exp(-step * step * inverse);
      for (let p = 0; p < points.length; p += 1) {
        const here = x[which] - points[p][which], d = values[0] - points[p][which], rise = this.slopes[p][which] * inverse;
        let bump = Math.exp(-0.5 * (squares[p] - here * here + d * d) * inverse), height = heights[p] + (d - here) * rise;
        let ratio = Math.exp(-(d + 0.5 * step) * step * inverse);
        for (let v = 0; v < out.length; v += 1) {
          out[v] += bump * height;
          bump *= ratio;
          ratio *= change;
          height += step * rise;
        }
      }
      return out;
    }

    /* One standard deviation of the loss at x. */
    error(x) {
      this.solved ??= this.prepare();
      const { rows, lower, projected, inner } = this.solved, here = { x, which: -1 };
      const b = solve(lower, rows.map((row) => covariance(here, row, this.length)));
      const g = Float64Array.from(features(x));
      let left = 1;
      for (let r = 0; r < b.length; r += 1) {
        left -= b[r] * b[r];
        for (let f = 0; f < g.length; f += 1) g[f] -= projected[f][r] * b[r];
      }
      const spread = solve(inner, g).reduce((sum, value) => sum + value * value, Math.max(left, 0));
      return Math.sqrt(spread * this.scale);
    }

    /* The highest expected loss that is not worse than the base's. As in a search, what is only expected has no error in its favour,
    but for the one that the surrogate has at the base itself, which was measured. */
    get highest() {
      this.limit ??= this.base === null ? Infinity : this.base + this.error(this.linear.map(() => 0));
      return this.limit;
    }

    /* What the errors of all points have in common; computed when the first is asked for. */
    prepare() {
      const rows = rows_of(this.shared), n = this.shared.points[0].length;
      const lower = cholesky(rows.map((row, i) => rows.slice(0, i + 1).map((other, j) => covariance(row, other, this.length) + (i === j ? this.noise : 0))));
      const given = rows.map(({ x, which }) => (which < 0 ? features(x) : slope_of_features(x, which)));
      const projected = given[0].map((_, f) => solve(lower, given.map((row) => row[f])));
      const prior = (f) => (f === 0 ? CONSTANT : f <= n ? LINEAR : this.quadratic);
      const inner = cholesky(projected.map((one, i) => projected.slice(0, i + 1).map((other, j) => {
        let sum = i === j ? 1 / prior(i) : 0;
        for (let r = 0; r < one.length; r += 1) sum += one[r] * other[r];
        return sum;
      })));
      return { rows, lower, projected, inner };
    }

    /* The share of the expert's gain that a loss is; null where there is none. */
    share(loss) {
      const width = this.base === null || this.expert === null ? 0 : this.base - this.expert;
      return width > 1e-9 ? (this.base - loss) / width : null;
    }
  }

  class Forecast {
    constructor({ names = [], points = [], sloped = [], low = [], high = [], datasets = {}, models = "", count = 0, gram = null, square = 0 }) {
      Object.assign(this, { names, points, low, high, models, count, gram, square });
      const shared = { points, sloped };
      this.datasets = new Map(Object.entries(datasets).map(([name, own]) => [name, new Surrogate(shared, own)]));
    }

    /* Whether it is about the composition of a state: a plain sum of the vectors that it knows. */
    of(state) {
      return globalThis.dem.state.plain(state) && this.models === state.info?.models;
    }

    /* Whether anything is predicted for a state of the page. */
    fits(state) {
      return this.datasets.size > 0 && this.of(state);
    }

    place(omegas) {
      return this.names.map((name) => omegas[name] ?? 0);
    }

    /* ‖Σ xᵢ Δᵢ‖ / ‖Θ‖ with its derivatives; only where the inner products are known. */
    norm(x) {
      const products = this.gram.map((row) => row.reduce((sum, value, i) => sum + value * x[i], 0));
      const norm = Math.sqrt(Math.max(0, products.reduce((sum, value, i) => sum + value * x[i], 0)));
      const unit = Math.sqrt(this.square);
      return { value: norm / unit, slope: products.map((product) => (norm ? product / norm / unit : 0)) };
    }

    /* Whether a value of one ω is inside the range in which it was measured. */
    trusts(which, value) {
      return value >= this.low[which] - EDGE && value <= this.high[which] + EDGE;
    }

    /* From the vectors' inner products: the cosine of Σ ωᵢ Δᵢ to each vector, by name, and its norm relative to the base's. null where
    they are not known, or the sum is zero. */
    geometry(omegas) {
      if (!this.gram) return null;
      const { value, slope } = this.norm(this.place(omegas));
      if (!value) return null;
      const cosine = (i) => slope[i] * Math.sqrt(this.square / this.gram[i][i]);
      return { norm: value, cosines: Object.fromEntries(this.names.map((name, i) => [name, cosine(i)])) };
    }

    /* The prediction for one dataset. */
    predict(name, omegas) {
      const surrogate = this.datasets.get(name), x = this.place(omegas);
      const { loss } = surrogate.at(x), stderr = surrogate.error(x), share = surrogate.share(loss);
      const share_stderr = share === null ? null : stderr / (surrogate.base - surrogate.expert);
      return { loss, stderr, share, share_stderr, inside: x.every((value, i) => this.trusts(i, value)), r2: surrogate.r2 };
    }

    /* How good the losses are together: minus the mean loss, so that more is better. */
    score(x) {
      let sum = 0;
      for (const surrogate of this.datasets.values()) sum -= surrogate.at(x).loss;
      return sum / this.datasets.size;
    }

    /* Prepares the errors, dataset after dataset, when the page has nothing else to do: else the first move would wait for it. */
    prepare() {
      const idle = globalThis.requestIdleCallback ?? ((work) => setTimeout(work, 50));
      const waiting = [...this.datasets.values()];
      const next = () => {
        const surrogate = waiting.shift();
        if (!surrogate) return;
        surrogate.solved ??= surrogate.prepare();
        idle(next);
      };
      idle(next);
      return this;
    }

    /* Minus the mean loss at equally spaced values of some ω, each moved alone: an array for each name. */
    lines(omegas, names, values) {
      const x = this.place(omegas), found = names.map(() => new Float64Array(values.length));
      for (const surrogate of this.datasets.values()) {
        const sums = surrogate.sums(x);
        names.forEach((name, row) => {
          surrogate.along(x, this.names.indexOf(name), values, sums).forEach((loss, place) => { found[row][place] -= loss / this.datasets.size; });
        });
      }
      return found;
    }

    /* The same along one ω. */
    along = (omegas, name, values) => Array.from(this.lines(omegas, [name], values)[0]);

    /* By how much the mean loss falls with each ω, by name. */
    slopes(omegas) {
      const x = this.place(omegas), sum = new Array(x.length).fill(0);
      for (const surrogate of this.datasets.values()) {
        surrogate.at(x).slope.forEach((value, place) => { sum[place] -= value / this.datasets.size; });
      }
      return Object.fromEntries(this.names.map((name, place) => [name, sum[place]]));
    }
  }

  globalThis.dem = Object.assign(globalThis.dem ?? {}, { Forecast, Surrogate });
})();
