/* The words about the losses that are shown: which they are, how many, how long; and never exact before they are. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import vm from "node:vm";

for (const name of ["state", "measuring"]) {
  const file = `${process.env.DEM_ASSETS}/live/${name}.js`;
  vm.runInThisContext(readFileSync(file, "utf8"), file);
}
const { state: { empty, step, status }, measuring: { left, far, which } } = globalThis.dem;

const point = (n, quick, ends) => ({ n, quick, ends });

test("which losses are shown, from the first few to all", () => {
  const shown = (points, whole = false) => which({ points: Object.fromEntries(points.map((one, number) => [number, one])), whole }, 2);
  assert.equal(shown([]), "measuring…");
  assert.equal(shown([point(5, true, false), point(7, true, false)]), "quick, n = 12; all examples follow");
  assert.equal(shown([point(5, true, true), point(7, true, true)]), "quick, n = 12; all examples follow");
  assert.equal(shown([point(200, false, false), point(7, true, false)]), "quick, n = 207; all examples follow");
  assert.equal(shown([point(200, false, false), point(300, false, false)]), "shares follow");
  assert.equal(shown([point(200, false, true), point(300, false, false)]), "1 of 2 datasets exact; the others follow");
  assert.equal(shown([point(200, false, true), point(300, false, true)], true), "exact, n = 500");
  assert.equal(which({ stage: "preview", points: { cot: point(5, true, true) } }, 2), "preview, n = 5; exact when you stop");
});

/* A page whose wish has settled, and what the server then says of its losses. */
function page() {
  const info = { models: "m", range: [-1, 2], methods: [], vectors: [{ name: "cot" }], state: { method: "task_arithmetic", parameters: {}, omegas: { cot: 0 } } };
  let [state] = step(empty(), { type: "opened", info });
  const said = (stage, more = {}) => { [state] = step(state, { type: "line", message: { turn: state.turn, stage, digest: `d${state.turn}`, points: {}, ...more } }); };
  said("settled");
  return {
    get state() { return state; },
    said,
    far(composition, compositions, seconds) { said("full", { measuring: { composition, compositions, seconds } }); return far(state); },
    move() { [state] = step(state, { type: "omega", name: "cot", value: 0.5, at: 0 }); },
  };
}

test("how far a measurement is", () => {
  const shown = page(), far = (...measuring) => shown.far(...measuring);
  assert.equal(far(3, 7, 39.2), "measuring 3 of 7 compositions · 40 s left");
  assert.equal(far(1, 7, null), "measuring 1 of 7 compositions");
  assert.equal(far(1, 1, 4), "measuring all examples · 4 s left");
  assert.deepEqual([0, 0.01, 99, 99.5, 3600].map(left), ["1 s left", "1 s left", "99 s left", "2 min left", "60 min left"]);
});

test("nothing is said of a measurement for what was shown before a move, or of one that has ended", () => {
  const shown = page();
  assert.equal(far(shown.state), "");
  assert.equal(shown.far(2, 7, 40), "measuring 2 of 7 compositions · 40 s left");
  assert.equal(status(shown.state).losses, "quick");
  shown.move();
  assert.equal(far(shown.state), "");
  shown.said("settled");
  shown.said("full", { whole: true });
  assert.equal(status(shown.state).losses, "full");
  assert.equal(far(shown.state), "");
});

test("losses are quick while one is, in part while one is missing, and full only with the last", () => {
  const shown = page();
  const points = (...quick) => Object.fromEntries(quick.map((one, number) => [number, { quick: one }]));
  for (const [given, expected] of [[{}, "quick"], [points(true, true), "quick"], [points(false, true), "quick"], [points(false, false), "part"]]) {
    shown.said("full", { points: given, measuring: { composition: 1, compositions: 2, seconds: 3 } });
    assert.equal(status(shown.state).losses, expected);
    assert.equal(far(shown.state), "measuring 1 of 2 compositions · 3 s left");
  }
  shown.said("full", { points: points(false, false), whole: true });
  assert.equal(status(shown.state).losses, "full");
});
