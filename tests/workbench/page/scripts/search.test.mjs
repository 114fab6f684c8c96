/* The tab Search without a page: ranks of compositions, the front of a pair, and which methods fit an aim. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import vm from "node:vm";

for (const name of ["state", "dom", "forecast", "optimum", "finding", "parallel", "trials", "front", "search_form", "search_found", "searched"]) {
  const script = `${process.env.DEM_ASSETS}/live/${name}.js`;
  vm.runInThisContext(readFileSync(script, "utf8"), script);
}
const { trials, front, searchForm, searched, finding } = globalThis.dem;
const row = (...losses) => ({ losses, mean: losses.reduce((sum, loss) => sum + loss, 0) / losses.length });

test("ranks worked by hand: 1 is beaten by none, 2 by those of 1 only", () => {
  //            beaten by none  by none   by [2, 2]   by [2.5, 2.5] and [2, 2]  equal on one and worse on the other
  const rows = [row(1, 4), row(2, 2), row(2.5, 2.5), row(3, 3), row(1, 5), row(4, 1)];
  assert.deepEqual(trials.ranks(rows), [1, 1, 2, 3, 2, 1]);
  assert.deepEqual(trials.ranks([row(2, 2), row(2, 2)]), [1, 1]); // equal ones do not beat each other
  assert.deepEqual(trials.ranks([]), []);
});

test("ranks are those of peeling front after front", () => {
  let seed = 7;
  const random = () => { seed = (seed * 1103515245 + 12345) % 2 ** 31; return (seed >> 8) % 6; };
  const rows = Array.from({ length: 60 }, () => row(random(), random(), random())), ranks = trials.ranks(rows);
  let left = rows.map((_, i) => i);
  for (let rank = 1; left.length; rank += 1) {
    const best = left.filter((i) => !left.some((j) => trials.beats(rows[j].losses, rows[i].losses)));
    for (const i of best) assert.equal(ranks[i], rank);
    left = left.filter((i) => !best.includes(i));
  }
  assert.ok(Math.max(...ranks) > 3);
});

test("in the plot of a pair those lead that no other one beats there", () => {
  const pairs = [{ x: 3, y: 1 }, { x: 1, y: 4 }, { x: 2, y: 2 }, { x: 2.5, y: 2.5 }, { x: 1, y: 5 }];
  const leads = front.leaders(pairs);
  assert.deepEqual(pairs.map((one) => leads.has(one)), [true, true, true, false, false]);
});

test("the front says how many compositions it left out, and why", () => {
  const rows = [{ x: [1], worse: ["cot"] }, { x: [1], worse: [] }, { x: null, worse: ["p3"] }];
  assert.equal(front.left_out(rows), "2 of 3 predicted compositions are left out: they are expected to be worse than the base on cot, p3. The best that is allowed takes the place of 1.");
  assert.match(front.left_out(rows.slice(0, 2)), /^1 of 2 .* takes the place of each\.$/);
  assert.equal(front.left_out([rows[1]]), "");
});

/* The fields of a form for the vectors a and b, of which b is frozen. */
const fields = ({ checked = true, aim = "share", low = "0", high = "1", sum = "", norm = "" } = {}) => ({
  info: { vectors: [{ name: "a" }, { name: "b" }] }, limited: { checked }, aim: { value: aim }, low: { value: low }, high: { value: high },
  sum: { value: sum }, norm: { value: norm }, frozen: [["a", { checked: false }], ["b", { checked: true }]],
});

test("a benchmark's aim asks nothing of the losses of datasets", () => {
  const form = (checked, aim) => searchForm.limits(fields({ checked, aim }), { omegas: { a: 0, b: 0 } }).spares;
  assert.deepEqual([form(true, "share"), form(false, "share"), form(true, "score")], [true, false, false]);
});

test("bounds and limits of the form, and fields that do not fit limit nothing", () => {
  const limits = (given) => searchForm.limits(fields(given), { omegas: { a: 0.2, b: 0.7 } });
  assert.deepEqual(limits({ low: "-0,5", sum: "1.5" }), { bounds: { a: [-0.5, 1], b: [0.7, 0.7] }, sum: 1.5, norm: null, spares: true });
  assert.deepEqual(limits({ low: "2", sum: "much", norm: "-1" }), { bounds: { b: [0.7, 0.7] }, sum: null, norm: null, spares: true });
});

test("a row that is not allowed has no rank and beats nobody", () => {
  const rows = [row(1, 1), row(2, 2), row(3, 3)];
  assert.deepEqual(trials.ranks(rows, (one) => one.mean > 1), [null, 1, 2]);
});

test("a measured composition is allowed by its ω, and by what was measured to be worse than the base", () => {
  const state = { info: { vectors: [{ name: "a" }, { name: "b" }] }, forecast: null }, allows = (limits, one) => trials.allows(state, { bounds: {}, sum: null, norm: null, spares: false, ...limits }, one);
  const one = { omegas: [0.4, 0.8], worse: ["p3"] };
  assert.deepEqual([allows({}, one), allows({ spares: true }, one), allows({ spares: true }, { ...one, worse: [] })], [true, false, true]);
  assert.deepEqual([allows({ sum: 1.2 }, one), allows({ sum: 1.1 }, one), allows({ bounds: { b: [0, 0.7] } }, one)], [true, false, false]);
  assert.ok(allows({ norm: 0.1 }, one)); // the norm is not known yet
});

test("an aim and groups leave the methods that can search for them", () => {
  assert.equal(searchForm.fits("share", "").length, 10);
  assert.deepEqual(searchForm.fits("front", "depth"), ["gp", "nsga"]);
  assert.ok(!searchForm.fits("score", "").includes("gradient"));
  assert.ok(!searchForm.fits("loss", "part").includes("simplex"));
});

test("a search that was stopped says that it can go on", () => {
  const search = { state: "cancelled", spent: 12, budget: 40, score: "mean loss 0.5412" };
  assert.equal(finding.words(search), "Search paused after 12 evaluations, best mean loss 0.5412. What it measured is kept, and Resume goes on from there");
});

test("a trial of groups of layers is one cell for each vector, and says what its columns are", () => {
  assert.equal(searched.compact([0.4, 0.6, 0.2]), "0.40/0.60/0.20");
  assert.equal(searched.compact([null, 0.6, 0.25]), "–/0.60/0.25"); // the vector changes nothing in the first group
  assert.equal(searched.compact([null, 0.4, 0.4]), "0.40");
  const row = { value: 61.23, error: 1.26, allowed: true, omegas: { cot: [0.4, 0.6], p3: [0, 0] }, parameters: {}, digest: "ab", to: null };
  const search = { aim: "mean share", percent: true, groups: ["early layers", "head"], parameters: [], count: 3, rows: [row] };
  const { columns, cells } = searched.layout(search);
  assert.deepEqual(columns, ["mean share in %", "±", "ω cot", "ω p3"]);
  assert.deepEqual(cells(row), ["61.2", "1.3", "0.40/0.60", "0.00"]);
  const words = searched.words(search);
  assert.match(words, /early layers \/ head/);
  assert.match(words, /sliders have one ω for each vector.*copy the digest/i);
  assert.match(words, /The best 1 of 3/);
  assert.doesNotMatch(words, /click on a row|Struck through/);
});

test("a trial of a benchmark or of another method is set by a click", () => {
  const row = { value: 0.25, error: null, allowed: false, omegas: { cot: [0.5] }, parameters: { density: 0.3 }, digest: "ab", to: { method: "ties" } };
  const search = { aim: "mean score", percent: false, groups: [], parameters: ["density"], count: 1, rows: [row] };
  const { columns, cells } = searched.layout(search);
  assert.deepEqual(columns, ["mean score", "±", "ω cot", "density"]);
  assert.deepEqual(cells(row), ["0.2500", "–", "0.50", "0.300"]);
  assert.match(searched.words(search), /^± is .* Struck through .* A click on a row sets it\.$/);
});

test("numbers of a merge method are offered but whole ones, and leave the methods that can search them", () => {
  const info = { methods: [
    { name: "task_arithmetic", parameters: [{ name: "lambda", kind: "number", whole: false }] },
    { name: "ties", parameters: [{ name: "density", kind: "number", whole: false }, { name: "seed", kind: "number", whole: true }, { name: "normalize", kind: "tick", whole: false }] },
  ] };
  assert.deepEqual(searchForm.numbers(info, "ties").map(({ name }) => name), ["density"]);
  assert.deepEqual(searchForm.numbers(info, "task_arithmetic"), []); // λ times all ω are other ω
  assert.deepEqual(searchForm.numbers(info, "unknown"), []);
  assert.deepEqual(searchForm.fits("share", "").filter((name) => !searchForm.fits("share", "", true).includes(name)), ["gradient", "simplex"]);
});
