/* The state machine of a page, without a page: run by node's own runner. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import vm from "node:vm";

const SCRIPT = process.env.DEM_ASSETS + "/live/state.js";
vm.runInThisContext(readFileSync(SCRIPT, "utf8"), SCRIPT);
const { empty, step, status, number, figures, same, composition } = globalThis.dem.state;

const METHODS = [
  { name: "task_arithmetic", parameters: [] },
  { name: "ties", parameters: [{ name: "density", kind: "number", whole: false, default: 0.2, low: 0, high: 1 }] },
  { name: "slerp", parameters: [{ name: "t", kind: "number", whole: false, default: null, low: 0, high: 1 }] },
];
const info = (models = "m1", names = ["cot", "p3"], state = {}) => ({
  models, range: [-1, 2], methods: METHODS, vectors: names.map((name) => ({ name })),
  state: { method: "task_arithmetic", parameters: {}, omegas: Object.fromEntries(names.map((name) => [name, 0])), ...state },
});

/* A page with its state and all effects; `settle` plays a server that answers the wish on its way. */
class Page {
  constructor(opened = info()) {
    this.state = empty();
    this.effects = [];
    if (opened) this.do("opened", { info: opened });
  }
  do(type, more = {}) {
    const [state, effects] = step(this.state, { type, at: 0, ...more });
    this.state = state;
    this.effects.push(...effects);
    return effects;
  }
  get wishes() { return this.effects.filter((effect) => effect.do === "send").map((effect) => effect.wish); }
  answer(stage, more = {}) { return this.do("line", { message: { turn: this.state.turn, stage, digest: `d${this.state.turn}`, formula: {}, ...more } }); }
  settle() { while (this.state.sent) this.answer("settled"); }
}

test("a page that opens asks for its composition once", () => {
  const page = new Page();
  assert.equal(page.wishes.length, 1);
  assert.deepEqual(page.wishes[0].omegas, { cot: 0, p3: 0 });
  assert.equal(status(page.state).model, "composing");
  page.settle();
  assert.equal(status(page.state).model, "settled");
});

test("while a wish is on its way, later moves wait, and only the last one is sent", () => {
  const page = new Page();
  page.settle();
  for (const value of [0.1, 0.2, 0.3, 0.4]) page.do("omega", { name: "cot", value });
  assert.equal(page.wishes.length, 2);
  assert.equal(page.wishes[1].omegas.cot, 0.1);
  page.answer("settled");
  assert.equal(page.wishes.length, 3);
  assert.equal(page.wishes[2].omegas.cot, 0.4);
});

test("an answer to an older turn changes nothing", () => {
  const page = new Page();
  page.settle();
  page.do("omega", { name: "cot", value: 0.5 });
  const before = page.state;
  for (const stage of ["settled", "quick", "full", "refused", "behind", "answer"]) {
    page.do("line", { message: { turn: 1, stage, digest: "old", points: {}, message: "old" } });
    assert.equal(page.state, before);
  }
});

test("numbers are read as people write them, and nothing else is a number", () => {
  for (const [text, value] of [["0.127", 0.127], [" -0,5 ", -0.5], ["−1", -1], ["1e-3", 0.001], [".5", 0.5], ["2.", 2], ["+0", 0]]) {
    assert.equal(number(text), value, text);
  }
  for (const text of ["", " ", "abc", "1e400", "NaN", "Infinity", "0x10", "1 2", "1,2,3", "--1", "1e", "٣"]) assert.equal(number(text), null, text);
});

test("figures show at least two decimals and every digit that counts", () => {
  for (const [value, text] of [[0.5, "0.50"], [0.127, "0.127"], [-0.3, "−0.30"], [2, "2.00"], [1e-7, "0.0000001"], [0, "0.00"], [1.23456, "1.23456"]]) {
    assert.equal(figures(value), text);
    assert.equal(number(figures(value)), value);
  }
});

test("typed digits stay as they are: shown, sent and kept are one number", () => {
  const page = new Page();
  page.settle();
  page.do("typed", { name: "cot", text: "0.127" });
  assert.equal(page.state.omegas.cot, 0.127);
  assert.equal(page.wishes.at(-1).omegas.cot, 0.127);
  page.settle();
  assert.equal(page.effects.filter((effect) => effect.do === "keep").at(-1).state.omegas.cot, 0.127);
});

test("text that is no number is told beside its field, and the last good value is kept", () => {
  for (const text of ["", "abc", "1e400", "NaN", "5", "-1.5"]) {
    const page = new Page();
    page.settle();
    page.do("typed", { name: "cot", text: "0.4" });
    page.settle();
    const count = page.wishes.length;
    page.do("typed", { name: "cot", text });
    assert.ok(page.state.errors.cot, text);
    assert.equal(page.state.omegas.cot, 0.4);
    assert.equal(page.wishes.length, count);
    page.do("left", { name: "cot" });
    assert.deepEqual(page.state.errors, {});
    assert.equal(page.state.omegas.cot, 0.4);
  }
});

test("a run of keys on one slider is one step of undo; another slider, or a pause, begins a new one", () => {
  const page = new Page();
  for (let n = 1; n <= 10; n += 1) page.do("omega", { name: "cot", value: n / 100, at: 500 * n });
  assert.equal(page.state.past.length, 1);
  page.do("omega", { name: "p3", value: 0.5, at: 5100 });
  assert.equal(page.state.past.length, 2);
  page.do("omega", { name: "p3", value: 0.6, at: 5100 + 801 });
  assert.equal(page.state.past.length, 3);
});

test("a drag is one step however long it takes", () => {
  const page = new Page();
  page.do("held", { held: true });
  for (let n = 1; n <= 60; n += 1) page.do("omega", { name: "cot", value: n / 100, at: 1000 * n });
  page.do("held", { held: false });
  assert.equal(page.state.past.length, 1);
  page.do("held", { held: true });
  page.do("omega", { name: "cot", value: 1, at: 60_010 });
  assert.equal(page.state.past.length, 2);
});

test("fast undo destroys nothing: each step can be redone", () => {
  const page = new Page();
  for (let n = 1; n <= 20; n += 1) page.do("preset", { omegas: { cot: n / 100 } });
  for (let n = 0; n < 20; n += 1) page.do("undo"); // no answer comes in between
  assert.equal(page.state.omegas.cot, 0);
  assert.equal(page.state.future.length, 20);
  for (let n = 0; n < 20; n += 1) page.do("redo");
  assert.equal(page.state.omegas.cot, 0.2);
  page.settle();
  assert.equal(page.wishes.at(-1).omegas.cot, 0.2);
});

test("a refused change goes back to the composition before it, with the reason", () => {
  const page = new Page();
  page.settle();
  page.do("preset", { omegas: { cot: 0.5 } });
  page.settle();
  page.do("method", { name: "ties" });
  page.answer("refused", { message: "ties takes two vectors", field: "" });
  assert.equal(page.state.method, "task_arithmetic");
  assert.equal(page.state.refused.message, "ties takes two vectors");
  page.settle();
  assert.equal(page.wishes.at(-1).method, "task_arithmetic");
  assert.equal(page.state.refused.message, "ties takes two vectors"); // it stays until the next move
  page.do("preset", { omegas: { cot: 0.6 } });
  assert.equal(page.state.refused, null);
});

test("a method whose parameter has no default waits for it, and then composes", () => {
  const page = new Page();
  page.settle();
  page.do("method", { name: "slerp" });
  assert.equal(page.wishes.length, 1);
  assert.equal(page.state.errors.t, "needs a value");
  page.do("parameter", { name: "t", value: "0.5" });
  assert.deepEqual(page.wishes.at(-1).parameters, { t: 0.5 });
  page.settle();
  page.do("undo");
  page.settle();
  assert.equal(page.wishes.at(-1).method === "task_arithmetic" || page.state.past.length > 0, true);
});

test("a parameter at its default is left out, so equal compositions are equal states", () => {
  const page = new Page();
  page.settle();
  page.do("method", { name: "ties" });
  page.do("parameter", { name: "density", value: "0,5" });
  assert.deepEqual(page.state.parameters, { density: 0.5 });
  page.do("parameter", { name: "density", value: "0.2" });
  assert.deepEqual(page.state.parameters, {});
});

test("a page that is behind composes nothing until it shows the open models", () => {
  const page = new Page();
  page.settle();
  page.do("here", { models: "m2" });
  assert.equal(page.state.server, "behind");
  const count = page.wishes.length;
  page.do("omega", { name: "cot", value: 0.5 });
  page.do("undo");
  assert.equal(page.wishes.length, count);
  page.do("opened", { info: info("m2", ["a", "b", "c"]) });
  assert.deepEqual(page.state.omegas, { a: 0, b: 0, c: 0 });
  assert.deepEqual([page.state.past, page.state.server], [[], "here"]);
  assert.equal(page.wishes.at(-1).models, "m2");
});

test("the page that opens other models is not behind", () => {
  const page = new Page();
  page.settle();
  page.do("opening", { opening: true });
  page.do("here", { models: "m2" });
  assert.equal(page.state.server, "here");
  page.do("opened", { info: info("m2", ["a"]) });
  assert.equal(page.state.opening, false);
});

test("while the server is gone the page keeps its state, and resumes when it is back", () => {
  const page = new Page();
  page.settle();
  page.do("failed");
  assert.deepEqual(status(page.state), { model: "waiting", losses: "", server: "gone" });
  page.do("omega", { name: "cot", value: 0.7 });
  page.do("failed", { turn: page.state.turn });
  page.do("here", { models: "" }); // started anew, still loading
  assert.equal(page.state.server, "loading");
  assert.equal(page.state.omegas.cot, 0.7);
  page.do("here", { models: "m1" });
  assert.equal(page.wishes.at(-1).omegas.cot, 0.7);
  page.settle();
  assert.equal(status(page.state).server, "here");
});

test("a question in another form is another question: no answer to the one before stays", () => {
  const page = new Page();
  page.settle();
  page.do("prompt", { text: "Hello" });
  page.settle();
  assert.equal(page.wishes.at(-1).plain, false);
  page.answer("answer", { text: "in the template" });
  page.do("plain", { plain: true });
  assert.equal(page.state.answer, null);
  page.answer("answer", { text: "late" }); // of the wish before: it goes when the question is asked
  page.do("prompt", { text: "Hello" });
  assert.equal(page.state.answer, null);
  assert.deepEqual([page.wishes.at(-1).prompt, page.wishes.at(-1).plain], ["Hello", true]);
  page.settle();
  page.answer("answer", { text: "plain" });
  assert.equal(page.state.answer.text, "plain");
  page.do("prompt", { text: "Goodbye" });
  assert.equal(page.state.answer, null);
});

test("a reload comes back to state, history, prompt and its form", () => {
  const page = new Page();
  page.settle();
  page.do("preset", { omegas: { cot: 0.3 } });
  page.settle();
  page.do("plain", { plain: true });
  page.do("prompt", { text: "Hello" });
  page.do("preset", { omegas: { cot: 0.6 } });
  page.settle();
  const kept = page.effects.filter((effect) => effect.do === "keep").at(-1);
  const again = new Page({ ...info(), state: kept.state });
  assert.ok(same(again.state, page.state));
  assert.deepEqual([again.state.past, again.state.prompt, again.state.plain], [page.state.past, "Hello", true]);
  again.do("undo");
  assert.equal(again.state.omegas.cot, 0.3);
});

test("losses stay while newer ones are on their way, and are said to be behind", () => {
  const page = new Page();
  page.settle();
  page.answer("full", { points: { cot: {} }, whole: true });
  assert.equal(status(page.state).losses, "full");
  page.do("omega", { name: "cot", value: 0.5 });
  assert.equal(status(page.state).losses, "behind");
  assert.ok(page.state.losses.points.cot);
  page.settle();
  assert.equal(status(page.state).losses, "behind");
  page.answer("quick", { points: { cot: { quick: true } } });
  assert.equal(status(page.state).losses, "quick");
});

test("a previewed drag is measured exactly when the hand rests", () => {
  const page = new Page();
  page.settle();
  page.do("held", { held: true });
  page.do("omega", { name: "cot", value: 0.5 });
  assert.equal(page.wishes.at(-1).held, true);
  page.answer("preview", { points: {} });
  assert.equal(status(page.state).losses, "preview");
  page.do("held", { held: false });
  assert.equal(page.wishes.at(-1).held, false);
});

/* Any interleaving: moves of all kinds, answers that come late or not at all, breaks, restarts, other models. At the end,
when the server has answered everything, what the page shows is what the server composed last. */
test("any interleaving comes to rest where page and server agree", () => {
  let seed = 1;
  const random = (n) => { seed = (seed * 48271) % 2147483647; return seed % n; };
  for (let round = 0; round < 300; round += 1) {
    const page = new Page();
    const open = { models: "m1" };
    let composed = null; // what the server's module holds
    const late = [];
    const serve = (wish) => {
      if (wish.models !== open.models) return { turn: wish.turn, stage: "behind" };
      if (wish.omegas.cot > 1.5) return { turn: wish.turn, stage: "refused", message: "too far" };
      composed = wish;
      return { turn: wish.turn, stage: "settled", digest: JSON.stringify(wish.omegas), formula: {} };
    };
    let served = 0;
    const next = () => (served < page.wishes.length ? page.wishes[served++] : null);
    for (let n = 0; n < 40; n += 1) {
      const what = random(12);
      if (what < 3) page.do("omega", { name: ["cot", "p3"][random(2)], value: random(300) / 100 - 1, at: n * random(1000) });
      else if (what === 3) page.do("undo");
      else if (what === 4) page.do("redo");
      else if (what === 5) page.do("method", { name: METHODS[random(3)].name });
      else if (what === 6) page.do("held", { held: !page.state.held });
      else if (what === 7) page.do("failed", { turn: page.state.turn });
      else if (what === 8) page.do("here", { models: [open.models, ""][random(2)] });
      else if (what === 9) page.do("typed", { name: "cot", text: ["", "0.127", "x", "9"][random(4)] });
      else {
        const wish = next();
        if (wish) late.push(serve(wish));
        if (late.length && random(2)) page.do("line", { message: late.splice(random(late.length), 1)[0] });
      }
    }
    page.do("held", { held: false });
    page.do("left", { name: "cot" });
    page.do("parameter", { name: "t", value: "0.5" });
    for (let n = 0; n < 200; n += 1) {
      page.do("here", { models: open.models });
      const wish = next();
      if (wish) page.do("line", { message: serve(wish) });
      else if (page.state.sent) page.do("failed", { turn: page.state.turn });
      else if (!page.state.dirty) break;
    }
    assert.equal(status(page.state).model, "settled", `round ${round}`);
    assert.ok(same(page.state, composed), `round ${round}: ${JSON.stringify(page.state.omegas)} ${JSON.stringify(composed.omegas)}`);
  }
});

test("whoever lets go asks for the exact losses at once, and a preview that comes afterwards changes nothing", () => {
  for (const values of [[0.5], [0.5, 0.6, 0.7]]) {
    const page = new Page();
    page.settle();
    page.do("held", { held: true });
    for (const value of values) page.do("omega", { name: "cot", value });
    const { turn } = page.state, before = page.wishes.length;
    page.do("held", { held: false });
    assert.equal(page.wishes.length, before + 1);
    assert.equal(page.wishes.at(-1).held, false);
    assert.equal(page.wishes.at(-1).omegas.cot, values.at(-1));
    page.do("line", { message: { turn, stage: "preview", points: {} } });
    assert.equal(page.wishes.length, before + 1);
    page.settle();
    assert.deepEqual([status(page.state).model, page.wishes.length], ["settled", before + 1]);
  }
});

test("a refused parameter goes back past a composition that lacks a value, and its message stays", () => {
  const page = new Page();
  page.settle();
  page.do("method", { name: "slerp" });
  page.do("parameter", { name: "t", value: "0.25" });
  page.answer("refused", { message: "slerp takes exactly 1 model" });
  assert.equal(page.wishes.at(-1).method, "task_arithmetic");
  page.settle();
  assert.equal(page.state.refused.message, "slerp takes exactly 1 model");
  assert.deepEqual(page.state.past, []);
});

const announced = (state = {}) => ({ ...info("", ["cot", "p3"], state), loading: true });
const open = (page, state = {}, names = undefined) => page.do("opened", { info: info("m1", names, state) });

test("sliders that are announced move, nothing is asked, and the models open on what was moved", () => {
  const page = new Page(announced({ omegas: { cot: 0.7, p3: 0.4 } }));
  page.do("omega", { name: "cot", value: 0.5 });
  page.do("opened", { info: announced({ omegas: { cot: 0.7, p3: 0.4 } }) }); // asked again: nothing changes
  page.do("preset", { omegas: { p3: 0.2 } });
  page.do("undo");
  assert.deepEqual(page.effects, []);
  assert.deepEqual(status(page.state), { model: "waiting", losses: "", server: "loading" });
  open(page, { omegas: { cot: 0.7, p3: 0.4 } });
  assert.deepEqual(page.wishes.map(({ omegas }) => omegas), [{ cot: 0.5, p3: 0.4 }]);
  page.settle();
  page.do("redo");
  assert.deepEqual(page.state.omegas, { cot: 0.5, p3: 0.2 });
  for (let steps = 0; steps < 2; steps += 1) page.do("undo");
  assert.deepEqual(page.state.omegas, { cot: 0.7, p3: 0.4 });
});

test("what the server has for the page and what was moved meanwhile are both kept, one step apart", () => {
  const past = [{ method: "task_arithmetic", parameters: {}, omegas: { cot: 0.1, p3: 0.1 } }];
  const page = new Page(announced());
  page.do("omega", { name: "cot", value: 0.5 });
  open(page, { method: "ties", parameters: { density: 0.4 }, omegas: { cot: 0.9, p3: 0.8 }, past });
  assert.deepEqual(composition(page.state), { method: "ties", parameters: { density: 0.4 }, omegas: { cot: 0.5, p3: 0.8 } });
  page.settle();
  page.do("undo");
  assert.deepEqual(page.state.omegas, { cot: 0.9, p3: 0.8 });
  page.do("undo");
  assert.deepEqual(page.state.omegas, { cot: 0.1, p3: 0.1 });
  const chosen = new Page(announced());
  chosen.do("method", { name: "ties" });
  chosen.do("parameter", { name: "density", value: "0.6" });
  open(chosen, { omegas: { cot: 0.9, p3: 0.8 } });
  assert.deepEqual(composition(chosen.state), { method: "ties", parameters: { density: 0.6 }, omegas: { cot: 0.9, p3: 0.8 } });
});

test("an untouched page shows what the server has, and moves of vectors that are not open are dropped", () => {
  const page = new Page(announced());
  open(page, { omegas: { cot: 0.9, p3: 0.8 } });
  assert.deepEqual(page.state.omegas, { cot: 0.9, p3: 0.8 });
  assert.equal(page.state.past.length, 0);
  const other = new Page(announced());
  other.do("omega", { name: "cot", value: 0.5 });
  other.do("omega", { name: "p3", value: 0.25 });
  open(other, {}, ["p3", "sni"]);
  assert.deepEqual(other.state.omegas, { p3: 0.25, sni: 0 });
});

test("one drag across the opening is one step, text in error stays, and a failed opening takes the sliders away", () => {
  const page = new Page(announced());
  page.do("held", { held: true });
  page.do("omega", { name: "cot", value: 0.1 });
  open(page);
  page.do("omega", { name: "cot", value: 0.2, at: 9000 });
  assert.equal(page.state.held, true);
  assert.equal(page.state.past.length, 1);
  const typed = new Page(announced());
  typed.do("typed", { name: "cot", text: "abc" });
  open(typed);
  assert.match(typed.state.errors.cot, /not a number/);
  const failed = new Page(announced());
  failed.do("omega", { name: "cot", value: 0.1 });
  failed.do("opened", { info: { models: "", loading: false, problem: "no weights" } });
  assert.equal(failed.state.info.vectors, undefined);
  assert.deepEqual([failed.state.server, failed.state.note, failed.state.dirty], ["empty", "no weights", false]);
});

const running = { id: 4, state: "running", models: "m1", trials: 0, spent: 0, budget: 9, omegas: null };

test("a search that this page asked for ends with its best ω, as one step", () => {
  const page = new Page();
  page.settle();
  page.do("finding", { search: running });
  const asks = (effects) => effects.map((effect) => effect.do).filter((name) => name !== "send");
  assert.deepEqual(asks(page.do("here", { models: "m1", search: { ...running, trials: 1, spent: 3 } })), ["forecast"]);
  assert.deepEqual(asks(page.do("here", { models: "m1", search: { ...running, trials: 1, spent: 3 } })), []);
  const done = { ...running, state: "done", trials: 2, spent: 6, omegas: { cot: 0.4, p3: 0.7 } };
  assert.deepEqual(asks(page.do("here", { models: "m1", search: done })), ["forecast", "open"]);
  assert.deepEqual(page.state.omegas, { cot: 0.4, p3: 0.7 });
  assert.equal(page.state.past.length, 1);
  page.do("undo");
  assert.deepEqual(page.state.omegas, { cot: 0, p3: 0 });
});

test("the numbers of a method that a search has found are set with the ω, as one step", () => {
  const page = new Page();
  page.settle();
  page.do("finding", { search: running });
  page.do("here", { models: "m1", search: { ...running, state: "done", trials: 2, method: "ties", parameters: { density: 0.3 }, omegas: { cot: 0.4, p3: 0.7 } } });
  const { method, parameters, omegas, past } = page.state;
  assert.deepEqual({ method, parameters, omegas }, { method: "ties", parameters: { density: 0.3 }, omegas: { cot: 0.4, p3: 0.7 } });
  assert.equal(past.length, 1);
  page.do("undo");
  assert.deepEqual([page.state.method, page.state.parameters, page.state.omegas], ["task_arithmetic", {}, { cot: 0, p3: 0 }]);
});

test("sliders that were moved since stay where they are, and so do those of a page that did not ask", () => {
  const done = { ...running, state: "done", trials: 2, omegas: { cot: 0.4, p3: 0.7 } };
  const moved = new Page();
  moved.do("finding", { search: running });
  moved.do("omega", { name: "cot", value: 0.2 });
  moved.do("here", { models: "m1", search: done });
  assert.deepEqual(moved.state.omegas, { cot: 0.2, p3: 0 });
  const other = new Page();
  other.do("here", { models: "m1", search: running });
  other.do("here", { models: "m1", search: done });
  assert.deepEqual(other.state.omegas, { cot: 0, p3: 0 });
  for (const state of ["cancelled", "failed", "interrupted"]) {
    const page = new Page();
    page.do("finding", { search: running });
    page.do("here", { models: "m1", search: { ...done, state } });
    assert.deepEqual(page.state.omegas, { cot: 0, p3: 0 });
  }
});

test("a refused search is told and changes nothing; a search of other models sets nothing", () => {
  const page = new Page();
  page.do("finding", { error: "no data are open" });
  assert.deepEqual(page.state.finding, { error: "no data are open" });
  page.do("finding", { search: { ...running, models: "m2" } });
  page.do("here", { models: "m1", search: { ...running, models: "m2", state: "done", trials: 3, omegas: { cot: 1, p3: 1 } } });
  assert.deepEqual(page.state.omegas, { cot: 0, p3: 0 });
});

test("several ω at once are one step while they follow each other", () => {
  const page = new Page();
  for (const value of [0.1, 0.2, 0.3]) page.do("omegas", { omegas: { cot: value, p3: 1 - value }, run: "preferences", at: 1000 * value });
  assert.deepEqual(page.state.omegas, { cot: 0.3, p3: 0.7 });
  assert.equal(page.state.past.length, 1);
});
