/* The optimum of a forecast in the page: boxes, floors, and several minima. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import vm from "node:vm";

for (const name of ["forecast", "optimum"]) {
  const script = `${process.env.DEM_ASSETS}/live/${name}.js`;
  vm.runInThisContext(readFileSync(script, "utf8"), script);
}
const { Forecast } = globalThis.dem, { minimise, best, worse, front, keeps, FREE } = globalThis.dem.optimum;
const spares = { ...FREE, spares: true };

/* Σ cᵢ(xᵢ − aᵢ)². */
const bowl = (centre, curve) => (x) => ({
  value: x.reduce((sum, value, i) => sum + curve[i] * (value - centre[i]) ** 2, 0),
  slope: x.map((value, i) => 2 * curve[i] * (value - centre[i])),
});

/* Two datasets whose losses are bowls around their own vector at ω = 1; base loss 2, expert loss 1. */
function forecast(points = [[0, 0], [1, 1], [0.5, 0.5]]) {
  const dataset = (centre) => ({
    constant: 1 + centre[0] ** 2 + centre[1] ** 2, linear: centre.map((value) => -2 * value), curvature: [[2, 0], [0, 2]],
    values: points.map(() => 0), slopes: points.map(() => [0, 0]), quadratic: 1, length: 0.7, noise: 1e-6, scale: 1e-4, r2: 0.99, base: 2, expert: 1,
  });
  return new Forecast({ names: ["a", "b"], points, sloped: points.map(() => false), low: [0, 0], high: [1, 1], models: "m", count: 3, gram: [[1, 0], [0, 1]], square: 1,
    datasets: { a: dataset([1, 0]), b: dataset([0, 1]) } });
}
const near = (found, wanted, by = 1e-3) => found.forEach((value, i) => assert.ok(Math.abs(value - wanted[i]) < by, `${found} is not ${wanted}`));

test("a bowl is minimised, also a narrow one and one whose bottom is outside the box", () => {
  near(minimise(bowl([0.3, 0.6, -0.2], [1, 50, 0.2]), [1, 1, 1], [-1, -1, -1], [2, 2, 2]).x, [0.3, 0.6, -0.2]);
  near(minimise(bowl([3, 0.5], [1, 4]), [0, 0], [0, 0], [1, 1]).x, [1, 0.5]);
});

test("weights decide between the datasets, and a floor holds one up", () => {
  const page = forecast();
  near(best(page, { a: { weight: 1 }, b: { weight: 1 } }).x, [0.5, 0.5]);
  near(best(page, { a: { weight: 3 }, b: { weight: 1 } }).x, [0.75, 0.25]);
  const share = (x, name) => { const one = page.datasets.get(name); return one.share(one.at(x).loss); };
  const held = best(page, { a: { weight: 3 }, b: { weight: 1, floor: 0.4 } }).x;
  assert.ok(share(best(page, { a: { weight: 3 }, b: { weight: 1 } }).x, "b") < 0.4);
  assert.ok(Math.abs(share(held, "b") - 0.4) < 0.02, `${share(held, "b")}`);
});

test("the optimum is within the measured range and near a measured point", () => {
  const page = forecast([[0, 0], [0.1, 0.1]]);
  page.high = [1, 1];
  const found = best(page, { a: { weight: 1 }, b: { weight: 0 } }).x;
  near(found, [0.4, 0]);
});

test("the front goes from one dataset's best to the other's, and no point on it is beaten by another", () => {
  const page = forecast(), losses = (x) => ["a", "b"].map((name) => page.datasets.get(name).at(x).loss);
  const points = front(page, "a", "b").map(({ x }) => losses(x));
  points.slice(1).forEach((point, i) => {
    assert.ok(point[0] >= points[i][0] - 1e-3); // ω have four digits
    assert.ok(point[1] <= points[i][1] + 1e-3);
  });
});

test("with no dataset worse than the base, the best for one dataset is where the other's loss is the base's", () => {
  const page = forecast(), only = { a: { weight: 1 }, b: { weight: 0 } };
  // b's loss is 1 + x² + (y − 1)², and the base's is 2: allowed is the disk of radius 1 around (0, 1). Its point next to a's own
  // best, (1, 0), is (√½, 1 − √½). Without the limit, (0.8, 0.2) is as near to (1, 0) as the measured points allow.
  assert.deepEqual(worse(page, [0.8, 0.2]), ["b"]);
  near(best(page, only).x, [0.8, 0.2]);
  assert.deepEqual(best(page, only).worse, []); // nothing was asked for
  const held = best(page, only, spares);
  near(held.x, [Math.SQRT1_2, 1 - Math.SQRT1_2], 3e-3);
  assert.deepEqual(held.worse, ["b"]);
  assert.deepEqual(worse(page, held.x), []);
  assert.deepEqual(held.x.map((value) => +value.toFixed(4)), held.x); // as the sliders get it
});

test("the front leaves out what is expected to be worse than the base, and tells how much", () => {
  const page = forecast(), rows = front(page, "a", "b", spares);
  // With parts 1 − p and p and 0.02 for both, the best is (1.02 − p, 0.02 + p) / 1.04. b is worse than the base where the first is
  // above √½, at p = 0, 1/12, 2/12 and 3/12; and a, on the other side, at as many.
  assert.deepEqual(rows.map((row) => row.worse.join()), ["b", "b", "b", "b", "", "", "", "", "", "a", "a", "a", "a"]);
  for (const { x } of rows) assert.deepEqual(worse(page, x), []);
  assert.ok(front(page, "a", "b").some(({ x }) => worse(page, x).length));
});

test("where all that is near is worse than the base, nothing is proposed", () => {
  const page = forecast([[1, 0], [0.9, 0]]); // b's loss is 3 and 2.81 there, and 2.36 at the nearest edge of the range
  page.low = [0.6, 0];
  page.high = [1, 0];
  assert.deepEqual(best(page, { a: { weight: 1 }, b: { weight: 1 } }, spares), { x: null, worse: ["b"] });
  page.datasets.get("b").base = null; // a base that was not measured allows everything
  page.datasets.get("b").limit = undefined;
  near(best(page, { a: { weight: 1 }, b: { weight: 0 } }, spares).x, [1, 0]);
});

test("Σω and the norm limit the optimum: it is the point next to the free one that they allow", () => {
  // With weights 3 and 1 the mean share is a bowl around (0.75, 0.25), so the best that is allowed is the nearest point.
  const page = forecast(), wanted = { a: { weight: 3 }, b: { weight: 1 } }, at = (limits) => best(page, wanted, { ...FREE, ...limits }).x;
  near(at({ sum: 0.6 }), [0.55, 0.05], 5e-3);
  near(at({ norm: 0.5 }), [0.75, 0.25].map((value) => value * 0.5 / Math.hypot(0.75, 0.25)), 5e-3);
  near(at({ sum: 0.6, norm: 0.5 }), [0.4871, 0.1129], 5e-3); // x + y = 0.6 and x² + y² = 0.25
  near(at({ sum: 2, norm: 2 }), [0.75, 0.25]); // limits that are kept change nothing
  for (const limits of [{ sum: 0.6 }, { norm: 0.5 }, { sum: 0.6, norm: 0.5 }, { sum: 0.6, spares: true }]) {
    const x = at(limits);
    assert.ok(keeps(page, { ...FREE, ...limits }, x), `${x} breaks ${JSON.stringify(limits)}`);
  }
});

test("bounds count, a frozen ω stays, also outside of the measured range", () => {
  const page = forecast([[0, 0], [0.5, 0.5]]), wanted = { a: { weight: 3 }, b: { weight: 1 } };
  page.high = [0.8, 0.8];
  near(best(page, wanted, { ...FREE, bounds: { b: [0.4, 0.4] } }).x, [0.75, 0.4]);
  near(best(page, wanted, { ...FREE, bounds: { a: [0, 0.3] } }).x, [0.3, 0.25]);
  near(best(page, wanted, { ...FREE, bounds: { b: [1.2, 1.2] } }).x, [0.75, 1.2]);
  near(best(page, wanted, { ...FREE, bounds: { b: [-0.5, -0.1] } }).x, [0.75, -0.1]);
  // 1/3 is a frozen ω of more digits than sliders are set to.
  near(best(page, wanted, { ...FREE, bounds: { b: [1 / 3, 1 / 3] } }).x, [0.75, 1 / 3]);
});

test("limits that no point keeps give nothing", () => {
  const nothing = { x: null, worse: [] }, wanted = { a: { weight: 1 }, b: { weight: 1 } };
  assert.deepEqual(best(forecast(), wanted, { ...FREE, bounds: { a: [0.5, 1], b: [0.5, 1] }, sum: 0.6 }), nothing);
  assert.deepEqual(best(forecast(), wanted, { ...FREE, bounds: { a: [0.5, 1], b: [0.5, 1] }, norm: 0.6 }), nothing);
});
