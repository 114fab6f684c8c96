/* How often a page is drawn, with a clock and frames of the test: run by node's own runner. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import vm from "node:vm";

/* A browser whose frames come every 16 ms and take `cost`; the time goes on only where the test says so. */
class Browser {
  constructor(cost) {
    this.now = 0;
    this.waiting = []; // [time, number, callback]
    this.number = 0;
    const later = (time, callback) => {
      this.waiting.push([time, this.number += 1, callback]);
      return this.number;
    };
    const drop = (number) => { this.waiting = this.waiting.filter((one) => one[1] !== number); };
    Object.assign(globalThis, {
      performance: { now: () => this.now },
      requestAnimationFrame: (callback) => later(this.now + 16, callback),
      cancelAnimationFrame: drop,
      setTimeout: (callback, wait) => later(this.now + wait, callback),
      clearTimeout: drop,
      MessageChannel: class {
        port1 = {};
        port2 = { postMessage: (data) => { later(this.browser.now + cost, () => this.port1.onmessage({ data })); } };
        browser = Browser.current;
      },
    });
    Browser.current = this;
  }
  run(until) {
    for (;;) {
      this.waiting.sort((one, other) => one[0] - other[0] || one[1] - other[1]);
      if (!this.waiting.length || this.waiting[0][0] > until) break;
      const [time, , callback] = this.waiting.shift();
      this.now = Math.max(this.now, time);
      callback();
    }
    this.now = until;
  }
}

const { setTimeout: timeout, clearTimeout: clear } = globalThis;
test.after(() => Object.assign(globalThis, { setTimeout: timeout, clearTimeout: clear }));
const SCRIPT = process.env.DEM_ASSETS + "/live/dom.js";
globalThis.dem = {};
vm.runInThisContext(readFileSync(SCRIPT, "utf8"), SCRIPT);

/* What is drawn in a second in which the state changes every 10 ms. */
function drawn(cost) {
  const browser = new Browser(cost), seen = [];
  const paint = globalThis.dem.dom.painter((state) => seen.push([browser.now, state]));
  for (let n = 0; n < 100; n += 1) {
    paint(n);
    browser.run(10 * (n + 1));
  }
  browser.run(2000);
  return seen;
}

test("on an idle machine every frame draws the newest state", () => {
  const seen = drawn(2);
  assert.ok(seen.length >= 45, `${seen.length} frames`);
  for (const [time, state] of seen.slice(0, -1)) assert.ok(time - 10 * state <= 16, `${state} was drawn at ${time}`);
  assert.equal(seen.at(-1)[1], 99);
});

test("on a busy machine two thirds of the time are left free, and the last state is drawn all the same", () => {
  const seen = drawn(84); // with the 16 until the frame: 100 ms, and 200 ms until the next is asked for
  assert.ok(seen.length <= 5, `${seen.length} frames`);
  for (let n = 1; n < seen.length; n += 1) assert.ok(seen[n][0] - seen[n - 1][0] >= 300, `${seen[n]} after ${seen[n - 1]}`);
  assert.equal(seen.at(-1)[1], 99);
});

test("what was cancelled is not drawn, and the next state is", () => {
  const browser = new Browser(2), seen = [];
  const paint = globalThis.dem.dom.painter((state) => seen.push(state));
  paint(1);
  paint.cancel();
  browser.run(100);
  assert.deepEqual(seen, []);
  paint(2);
  browser.run(200);
  assert.deepEqual(seen, [2]);
});
