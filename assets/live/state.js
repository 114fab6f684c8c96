/* The state of a page as a pure state machine: events in, a new state and effects out. It touches neither page nor network.

A state is a plain object:
  info      what is open or, if its key `models` is empty, is being opened, as /live/open describes it; null before
  announced the composition that the page began with while the models were being opened; null once they are open
  method, parameters, omegas     the composition that the page shows; parameters and omegas by name
  past, future                   the compositions before and after it, for undo and redo
  turn      counts the wishes; every message of the server names the turn that it answers
  sent      the turn that is on its way and not yet settled; 0 if none
  dirty     whether the composition has changed since that wish was sent
  settled   { turn, digest, formula } of the last composition that the server has carried out
  losses    { digest, stage, points, mean, whole, measuring } of the last losses; they stay, dimmed, until newer ones come
  best      the preset of the best known composition; null if there is none
  forecast  predicts the losses of any ω, see forecast.js; null before the server has sent one
  prompt, plain                  the question, and whether it is sent as plain text although there is a chat template
  answer    { digest, text, tokens, seconds, growing, form, problem } to the question; null until it begins
  search    how far the newest search of ω is, as the server tells with each beat; null if there was none
  finding   the search that this page has asked for: { id, composition } or { error }; null if none
  refused   { message, field } if the last change was refused
  errors    field -> message, for text that is no number
  server    "here", "gone", "behind" (other models are open), "empty" (none are) or "loading"
  kept      the composition that was stored last, so that it is not stored twice

`step(state, event)` returns [state, effects]. Effects are { do: the name of a method of Line } with what it needs. */
(() => {
  const STEPS = 100; // how many moves can be undone
  const RUN = 800; // milliseconds within which moves of one slider are one step

  const composition = ({ method, parameters, omegas }) => ({ method, parameters, omegas });
  const sorted = (value) =>
    value && typeof value === "object" && !Array.isArray(value)
      ? Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]))
      : value;
  const same = (one, other) => JSON.stringify(sorted(composition(one))) === JSON.stringify(sorted(composition(other)));

  const PLAIN = { method: "task_arithmetic", parameters: {} }; // Θ + Σ ωᵢ Δᵢ
  const plain = ({ method, parameters }) => method === PLAIN.method && !Object.keys(parameters).length;

  const empty = () => ({
    info: null, ...PLAIN, omegas: {}, past: [], future: [], turn: 0, sent: 0, dirty: false,
    settled: null, losses: null, answer: null, refused: null, errors: {}, server: "loading", kept: null, prompt: "", plain: false,
    run: null, held: false, opening: false, note: "", command: "", best: null, announced: null, forecast: null,
    search: null, finding: null,
  });

  /* A number as people type it: a comma for the point, a true minus sign. null if it is none. */
  function number(text) {
    const plain = String(text).trim().replace("−", "-").replace(",", ".");
    if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(plain)) return null;
    const value = Number(plain);
    return Number.isFinite(value) ? value + 0 : null;
  }

  /* At least two decimals, and all that the number has: 0.5 -> 0.50, 0.127 -> 0.127. */
  function figures(value) {
    if (!Number.isFinite(value)) return "";
    let text = String(Math.abs(value));
    if (/e/.test(text)) text = Math.abs(value).toFixed(20).replace(/0+$/, "");
    const [whole, digits = ""] = text.split(".");
    return `${value < 0 ? "−" : ""}${whole}.${digits.padEnd(2, "0")}`;
  }

  /* The parameter without a default that still has no value; the server is not asked before. */
  function missing({ info, method, parameters }) {
    const fields = info?.methods.find((one) => one.name === method)?.parameters ?? [];
    return fields.find((field) => field.default === null && !(field.name in parameters));
  }

  function send(state) {
    const turn = state.turn + 1;
    const next = { ...state, turn, sent: turn, dirty: false };
    return [next, [{ do: "send", wish: {
      turn, models: state.info.models, ...composition(state), held: state.held, prompt: state.prompt, plain: state.plain,
    } }]];
  }

  /* Sends now, or marks the state to be sent when the wish on its way has settled: so one wish is on its way at a time,
     and the server composes at most one state more than it answers. */
  function wish(state) {
    if (!state.info?.vectors || state.server === "behind" || state.server === "empty") return [state, []];
    if (missing(state)) return [{ ...state, dirty: false }, []];
    return state.sent || !state.info.models ? [{ ...state, dirty: true }, []] : send(state);
  }

  /* Moves to a composition. `run` names what is moved; moves of one thing that follow each other quickly are one step. */
  function move(state, to, run, at) {
    const next = { ...state, ...to, refused: null };
    if (same(next, state)) return [{ ...next, run: run ? { name: run, at } : null }, []];
    const goes = state.run && run && state.run.name === run && (state.held || at - state.run.at < RUN);
    const past = goes ? state.past : [...state.past, composition(state)].slice(-STEPS);
    return wish({ ...next, past, future: [], run: run ? { name: run, at } : null });
  }

  const without = (errors, field) => Object.fromEntries(Object.entries(errors).filter(([name]) => name !== field));

  /* What a page begins with: the state that the server has for it. */
  function beginning(state, { past = [], future = [], prompt = "", plain = state.plain, ...rest }) {
    return { ...composition(rest), past, future, prompt: prompt || state.prompt, plain, losses: null, settled: null, answer: null };
  }

  /* The models are open now. What was moved before is moved again, on the state that the server has. */
  function resumed(state, start) {
    const { announced } = state;
    if (!announced || same(state, announced)) return start;
    if (same(start, announced)) return { ...start, ...composition(state), past: state.past, future: state.future };
    const moved = Object.entries(state.omegas).filter(([name, value]) => name in start.omegas && value !== announced.omegas[name]);
    const { method, parameters } = same({ ...state, omegas: null }, { ...announced, omegas: null }) ? start : state;
    const to = { method, parameters, omegas: { ...start.omegas, ...Object.fromEntries(moved) } };
    return { ...start, ...to, past: [...start.past, composition(start)].slice(-STEPS), future: [] };
  }

  const events = {
    /* /live/open has answered. A page that comes back keeps what it shows, if the same models are open. */
    opened(state, { info }) {
      if (!info.models) {
        const next = { ...state, server: info.loading ? "loading" : "empty", note: info.problem ?? "", sent: 0 };
        // Models that were open stay. Those that are being opened are asked for again and again, and a hand may move them.
        if (state.info?.models || (info.loading && state.info?.vectors)) return [next, []];
        if (!info.vectors) return [{ ...next, info, announced: null, dirty: false }, []];
        return [{ ...next, info, ...beginning(state, info.state), announced: composition(info.state) }, []];
      }
      const start = state.info?.models === info.models ? {} : resumed(state, beginning(state, info.state));
      const hand = state.announced ? {} : { errors: {}, run: null, held: false };
      const [next, effects] = wish({ ...state, ...hand, info, server: "here", note: info.note ?? "", sent: 0, refused: null, opening: false,
        announced: null, best: info.presets?.find((one) => one.label === "best") ?? null, ...start });
      return [next, [...effects, { do: "forecast" }]];
    },
    omega(state, { name, value, at, run = `omega ${name}` }) {
      if (!(name in state.omegas)) return [state, []];
      const errors = without(state.errors, name);
      return move({ ...state, errors }, { omegas: { ...state.omegas, [name]: value } }, run, at);
    },
    /* Text in the box of a slider. What is no number, or out of range, is told beside it, and the last good value stays. */
    typed(state, { name, text, at }) {
      const value = number(text), [low, high] = state.info.range;
      const problem = value === null ? `“${text}” is not a number` : value < low || value > high ? `from ${low} to ${high}` : "";
      if (problem) return [{ ...state, errors: { ...state.errors, [name]: problem } }, []];
      return events.omega(state, { name, value, at, run: null }); // each typed value is a step
    },
    /* Leaves a box: its text goes back to the value that counts. */
    left(state, { name }) {
      return name in state.errors ? [{ ...state, errors: without(state.errors, name) }, []] : [state, []];
    },
    held(state, { held }) {
      if (state.held === held) return [state, []];
      const next = { ...state, held, run: null };
      if (held) return [next, []];
      // Whoever lets go wants the exact answer, and does not wait for a preview that is on its way. Losses that were
      // previewed while the hand moved are measured exactly too.
      if (state.sent || state.losses?.stage === "preview") return wish({ ...next, sent: 0 });
      return state.settled && !state.dirty ? keep(next) : [next, []];
    },
    rest: (state) => (state.losses?.stage === "preview" ? wish({ ...state, held: false }) : [state, []]),
    preset: (state, { omegas }) => move({ ...state, errors: {} }, { omegas: { ...state.omegas, ...omegas } }, null, 0),
    method(state, { name }) {
      const method = state.info.methods.find((one) => one.name === name);
      if (!method || name === state.method) return [state, []];
      const [next, effects] = move({ ...state, errors: {} }, { method: name, parameters: {} }, null, 0);
      const field = missing(next);
      return [field ? { ...next, errors: { [field.name]: "needs a value" } } : next, effects];
    },
    parameter(state, { name, value, at }) {
      const field = state.info.methods.find((one) => one.name === state.method)?.parameters.find((one) => one.name === name);
      if (!field) return [state, []];
      let given = value, problem = "";
      if (field.kind === "number") {
        given = number(value);
        if (given === null) problem = `“${value}” is not a number`;
        else if (field.whole && !Number.isInteger(given)) problem = "expected a whole number";
        else if ((field.low !== null && given < field.low) || (field.high !== null && given > field.high)) {
          problem = `from ${field.low ?? "−∞"} to ${field.high ?? "∞"}`;
        }
      }
      if (problem) return [{ ...state, errors: { ...state.errors, [name]: problem } }, []];
      const parameters = { ...state.parameters, [name]: given };
      if (given === field.default) delete parameters[name];
      return move({ ...state, errors: without(state.errors, name) }, { parameters }, `parameter ${name}`, at);
    },
    prompt: (state, { text }) => wish({ ...state, prompt: text, answer: null }),
    /* The form of the next question; whoever changes it asks at once. */
    plain: (state, { plain }) => [{ ...state, plain, answer: null }, []],
    undo(state) {
      if (!state.past.length) return [state, []];
      const to = state.past.at(-1);
      return wish({ ...state, ...to, past: state.past.slice(0, -1), future: [composition(state), ...state.future],
        errors: {}, refused: null, run: null });
    },
    redo(state) {
      if (!state.future.length) return [state, []];
      const [to, ...future] = state.future;
      return wish({ ...state, ...to, past: [...state.past, composition(state)], future, errors: {}, refused: null, run: null });
    },
    /* Back and Forward of the browser, or a recipe of a table: one step. */
    go: (state, { to }) => move({ ...state, errors: {} }, composition({ ...state, ...to }), null, 0),
    line(state, { message }) {
      if (message.turn !== state.turn) return [state, []]; // an answer to an older wish
      const { stage } = message;
      if (stage === "behind") return [{ ...state, server: "behind", sent: 0, dirty: false }, []];
      if (stage === "empty") return [{ ...state, server: "empty", sent: 0, dirty: false }, []];
      if (stage === "refused") return refused(state, message);
      if (stage === "settled" || stage === "preview") {
        let next = { ...state, sent: 0, server: "here" };
        if (stage === "settled") next.settled = { turn: message.turn, digest: message.digest, formula: message.formula };
        else next = { ...next, losses: losses(message), settled: { ...state.settled, formula: message.formula } };
        const [after, effects] = state.dirty ? send(next) : [next, []];
        return stage === "settled" && !state.dirty && !state.held ? keep(after) : [after, effects];
      }
      if (stage === "quick" || stage === "full") return [{ ...state, losses: losses(message) }, []];
      if (stage === "command") return [{ ...state, command: message.command, best: message.best ?? state.best }, []];
      if (stage === "learned") return [state, [{ do: "forecast" }]];
      if (stage === "answer") return [{ ...state, answer: message }, []];
      return [state, []];
    },
    forecast: (state, { forecast }) => [{ ...state, forecast }, []],
    /* The line broke: the server is gone, or the network. The page keeps its state and asks again. */
    failed: (state, { turn }) =>
      turn === state.turn || turn === undefined ? [{ ...state, server: "gone", sent: 0, dirty: true }, []] : [state, []],
    /* The answer to a wish has ended. If it never settled, it was dropped for a newer one. */
    ended: (state, { turn }) => (state.sent === turn ? (state.dirty ? send({ ...state, sent: 0 }) : [{ ...state, sent: 0 }, []]) : [state, []]),
    here(state, { models, search }) {
      const [told, effects] = searched(state, search ?? null);
      const [next, more] = beaten(told, models);
      return [next, [...effects, ...more]];
    },
    /* The server has begun the search that this page asked for, or refused it. */
    finding: (state, { search, error }) =>
      [search ? { ...state, search, finding: { id: search.id, composition: composition(state) } } : { ...state, finding: { error } }, []],
    /* Several ω at once, such as those that a preference gives; moves with the same run are one step. */
    omegas: (state, { omegas, at, run }) => move({ ...state, errors: {} }, { omegas: { ...state.omegas, ...omegas } }, run, at),
    /* This page opens other models: what it shows will be replaced, and is not behind. */
    opening: (state, { opening }) => [{ ...state, opening }, []],
    kept: (state, { digest }) => [state, [{ do: "address", digest }]],
  };

  /* The server answers, and these models are open. */
  function beaten(state, models) {
    if (!state.info?.models) return [state, [{ do: "open" }]];
    if (!models) return [{ ...state, server: "loading", sent: 0 }, []]; // the server was started anew
    if (models !== state.info.models) return [state.opening ? state : { ...state, server: "behind" }, []];
    return state.server === "here" ? [state, []] : wish({ ...state, server: "here", sent: 0 });
  }

  /* The composition that a search has found, on top of what a state shows. */
  const reached = ({ omegas }, { method = PLAIN.method, parameters = {}, omegas: found }) => ({ method, parameters, omegas: { ...omegas, ...found } });
  const active = (search) => ["queued", "running", "cancelling"].includes(search?.state);

  /* How the search goes. What it measures joins the forecast; where the page that asked for it was not moved since, its end sets
     the best ω, as one step. */
  function searched(state, search) {
    const before = state.search, next = { ...state, search };
    if (JSON.stringify(before) === JSON.stringify(search)) return [state, []];
    if (search?.models !== state.info?.models || before?.id !== search.id) return [next, []];
    const effects = search.trials > before.trials ? [{ do: "forecast" }] : [];
    if (active(search) || !active(before)) return [next, effects];
    effects.push({ do: "open" }); // its best may be the best of all now
    const mine = state.finding?.id === search.id && same(state, state.finding.composition);
    if (!mine || search.state !== "done" || !search.omegas) return [next, effects];
    const [moved, more] = move(next, reached(state, search), null, 0);
    return [moved, [...effects, ...more]];
  }

  const losses = ({ digest, stage, points, mean, whole = false, measuring = null }) => ({ digest, stage, points, mean, whole, measuring });

  /* A refused change is told beside its cause; the composition before it comes back. */
  function refused(state, { message, field }) {
    let last = state.past.length - 1;
    // One that lacks a value was never composed: going back to it would be refused as well.
    while (last >= 0 && missing({ ...state, ...state.past[last] })) last -= 1;
    const back = state.past[last];
    const next = { ...state, sent: 0, refused: { message, field: field ?? "" } };
    if (state.dirty) return send(next);
    if (!back) return [next, []];
    const [again, effects] = send({ ...next, ...back, past: state.past.slice(0, last), run: null });
    return [{ ...again, refused: next.refused }, effects];
  }

  function keep(state) {
    if (state.kept && same(state.kept, state) && state.kept.models === state.info.models) return [state, []];
    const kept = { ...composition(state), models: state.info.models };
    const { past, future, prompt, plain } = state;
    return [{ ...state, kept }, [{ do: "keep", models: state.info.models, state: { ...composition(state), past, future, prompt, plain } }]];
  }

  function step(state, event) {
    const handler = events[event.type];
    if (!handler) throw new Error(`no event is called ${event.type}`);
    return handler(state, event);
  }

  /* The three parts of the status, in words. Losses are "part" if those that are shown are of all examples, but some are missing. */
  function status(state) {
    const waits = state.sent || state.dirty;
    const model = state.server !== "here" ? (waits ? "waiting" : "") : waits ? "composing" : state.settled ? "settled" : "";
    const shown = state.losses;
    const current = shown && state.settled && shown.digest === state.settled.digest && !waits;
    const preview = shown?.stage === "preview";
    const each = Object.values(shown?.points ?? {}), few = !each.length || each.some((point) => point.quick);
    const measured = preview ? "preview" : !shown ? "" : !current ? "behind" : shown.whole ? "full" : few ? "quick" : "part";
    return { model, losses: measured, server: state.server };
  }

  globalThis.dem = Object.assign(globalThis.dem ?? {}, { state: { empty, step, status, number, figures, same, composition, active, reached, plain, PLAIN } });
})();
