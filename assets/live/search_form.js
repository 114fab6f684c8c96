/* The form of the tab Search: what to search for. What does not fit is told beside its field. */
(() => {
  const { h, text, swatch } = globalThis.dem.dom;
  const { number, PLAIN } = globalThis.dem.state;
  const { finding } = globalThis.dem;
  const AIMS = [["share", "mean share of each expert's gain"], ["loss", "mean loss"], ["regret", "largest share that is missing"],
    ["front", "each dataset's loss by itself: a front"], ["score", "score on a benchmark"]];
  const METHODS = ["surrogate", "gradient", "coordinate", "greedy", "grid", "simplex", "tpe", "gp", "nsga", "cma"];
  const GROUPS = [["", "each vector"], ["depth", "thirds of the depth"], ["part", "parts: attention, MLP, …"]];
  const LEARNS_FROM_ALL = ["surrogate", "gradient", "nsga"]; // needs the losses of every composition, also of bad ones
  const SLOW = 4; // more aims than this take gp seconds for each composition
  const OTHER = "other";

  /* Methods that can search for an aim, with ω of such groups, or with numbers of a merge method. */
  const fits = (aim, groups, varied = false) => METHODS.filter((method) =>
    (aim !== "front" || ["nsga", "gp"].includes(method)) && !((aim === "score" || varied) && method === "gradient") && !((groups || varied) && method === "simplex"));

  /* The numbers of a merge method that can be searched with the ω. λ of task arithmetic only scales them. */
  const numbers = (info, method) => (method === PLAIN.method ? [] : info.methods.find(({ name }) => name === method)?.parameters.filter(({ kind, whole }) => kind === "number" && !whole) ?? []);

  const choice = (id, options, value) => h("select", { id }, options.map(([key, words]) => h("option", { value: key, selected: key === value }, words)));

  const box = (id, value, props = {}) => h("input.figures", { id, type: "text", inputmode: "decimal", value, ...props });

  /* A labelled input with a place for its fault, which is kept in `fields`. */
  function labels(fields) {
    return (label, input, props = {}) => {
      const error = h("small.field-error", { role: "alert" });
      fields.push({ input, error });
      return h("label", props, h("span", {}, label), input, error);
    };
  }

  /* A form for what is open and the state of the page; calls `changed` after each change. */
  function build(info, state, changed) {
    const own = { info, fields: [], chosen: METHODS[0], varied: [], ranges: [] };
    const labelled = labels(own.fields);
    own.aim = choice("search-aim", AIMS, finding.aim(info));
    own.tasks = tasks(info);
    own.named = h("input", { id: "search-tasks", type: "text", placeholder: "arc_easy, piqa", spellcheck: "false" });
    own.limit = box("search-limit", "");
    own.limit.placeholder = "all";
    own.method = choice("search-method", METHODS.map((name) => [name, name]), own.chosen);
    own.method.addEventListener("input", () => { own.chosen = own.method.value; });
    own.groups = choice("search-groups", GROUPS, "");
    for (const [key, value] of Object.entries({ budget: "40", low: "0", high: "1", reach: "", sum: "", norm: "" })) own[key] = box(`search-${key}`, value);
    own.limited = h("input", { type: "checkbox", id: "search-limited", checked: true });
    own.few = h("input", { type: "checkbox", id: "search-few" });
    own.frozen = info.vectors.map(({ name, colour }) => [name, h("input", { type: "checkbox" }), colour]);
    own.benchmark = [labelled("benchmark", own.tasks), labelled("tasks of lm-eval", own.named), labelled("questions per task", own.limit)];
    own.vary = h("fieldset.vary", { id: "search-vary", hidden: true });
    own.hint = h("p.quiet", { id: "search-hint" });
    own.summary = h("span.figures");
    own.more = h("details.search-more", {}, h("summary", {}, "bounds and limits", own.summary),
      h("div.search-form", {}, labelled("ω from", own.low), labelled("to", own.high),
        labelled("at most ± from here", own.reach, { title: "How far each ω may move from where it stands; empty for the whole range" }),
        labelled("Σω at most", own.sum, { title: "The highest sum of all ω; empty for no limit" }),
        labelled("‖ΔΘ‖ ∕ ‖Θ‖ at most", own.norm, { title: "The highest norm of the edit, as a share of the base's; empty for no limit" })),
      h("div.search-form", {}, h("label.tick", {}, own.limited, own.worse = h("span")),
        h("label.tick", { title: "Measures a quarter of the examples first, and the others only if the composition may be the best. Not for methods that learn from all losses" },
          own.few, h("span", {}, "few examples first"))),
      h("fieldset.members", {}, h("legend", {}, "keep as they stand"), own.frozen.map(([name, tick, colour]) => h("label", {}, tick, swatch(colour), name))));
    own.root = h("div.search-asked", {},
      h("div.search-form", {}, labelled("aim", own.aim), ...own.benchmark, labelled("an ω for", own.groups), labelled("method", own.method), labelled("evaluations", own.budget)),
      own.vary, own.hint, own.more);
    for (const event of ["input", "change"]) own.root.addEventListener(event, () => { refresh(own); changed(event === "change"); });
    refresh(own);
    follow(own, state);
    return own;
  }

  /* Offers the numbers of the merge method that the page shows. Its other parameters stay as the page has them. */
  function follow(own, { method, parameters }) {
    own.merge = { method, parameters };
    if (own.offered === method) return;
    own.offered = method;
    own.ranges = [];
    const labelled = labels(own.ranges);
    own.varied = numbers(own.info, method).map(({ name, low, high, help }) => {
      const tick = h("input", { type: "checkbox", "data-vary": name });
      const ends = [["from", low], ["to", high]].map(([word, end]) => box(`search-${name}-${word}`, "", { placeholder: end, "aria-label": `${name} ${word}` }));
      const root = h("div.search-form", {}, h("label.tick", { title: help }, tick, h("span", {}, name)), labelled("from", ends[0]), labelled("to", ends[1]));
      return { name, low, high, tick, ends, root };
    });
    own.vary.hidden = !own.varied.length;
    own.vary.replaceChildren(h("legend", {}, `search numbers of ${method} with the ω`), ...own.varied.map(({ root }) => root));
    refresh(own);
  }

  const ticked = (own) => own.varied.filter(({ tick }) => tick.checked);

  function tasks(info) {
    const suites = Object.entries(info.suites ?? {}), first = suites[0]?.[0];
    return h("select", { id: "search-benchmark" }, suites.map(([suite, names]) => h("optgroup", { label: `suite ${suite}` },
      h("option", { value: `suite ${suite}`, selected: suite === first }, `all of ${suite}`), names.map((name) => h("option", { value: `task ${name}` }, name)))),
    h("option", { value: OTHER }, "other tasks, by name"));
  }

  /* What one choice means for the others. */
  function refresh(own) {
    const { info } = own, aim = own.aim.value, varied = ticked(own);
    own.groups.disabled = varied.length > 0;
    if (varied.length) own.groups.value = "";
    for (const { tick, ends } of own.varied) for (const input of ends) input.disabled = !tick.checked;
    const groups = own.groups.value, able = fits(aim, groups, varied.length > 0);
    own.benchmark[0].hidden = own.benchmark[2].hidden = aim !== "score";
    own.benchmark[1].hidden = aim !== "score" || own.tasks.value !== OTHER;
    for (const option of own.method.options) option.disabled = !able.includes(option.value);
    // What does not fit one aim comes back with the next.
    own.method.value = able.includes(own.chosen) ? own.chosen : aim === "front" ? "nsga" : able[0];
    own.few.disabled = LEARNS_FROM_ALL.includes(own.method.value) || aim === "score" || aim === "front";
    own.few.checked &&= !own.few.disabled;
    text(own.worse, aim === "score" ? "no task worse than the base" : "no dataset worse than the base");
    const hints = [
      aim === "front" && "Finds the compositions that no other one beats on every dataset. They have a 1 in the column “front”, and the sliders go to the one with the lowest mean loss.",
      aim === "front" && own.method.value === "gp" && info.data.length > SLOW && `gp takes many seconds to propose each composition with ${info.data.length} datasets; nsga takes none.`,
      aim === "score" && "Each evaluation asks all these questions. The report has the best beside the base.",
      own.varied.length && !varied.length && "Searches sums of the vectors, Θ + Σ ωᵢ Δᵢ, unless a number of the merge method is ticked.",
      varied.length && `Searches ${own.offered}. Then task_arithmetic is searched with the same budget, and both are listed: without it a method could look good only because its ω were searched.`,
      groups && "First each vector has one ω, then one group of layers after another gets its own. Sliders cannot show such a recipe: they stay as they are, and it is listed below.",
    ].filter(Boolean);
    text(own.hint, hints.join(" "));
    own.hint.hidden = !hints.length;
    text(own.summary, summary(own));
  }

  /* The names of the vectors that keep their ω. */
  const kept = (own) => own.frozen.filter(([, tick]) => tick.checked).map(([name]) => name);

  /* The bounds and limits that count, so that a closed fold hides none. */
  function summary(own) {
    const frozen = kept(own), given = (input) => input.value.trim();
    return [`ω from ${given(own.low)} to ${given(own.high)}`, given(own.reach) && `± ${given(own.reach)}`, given(own.sum) && `Σω ≤ ${given(own.sum)}`, given(own.norm) && `‖ΔΘ‖ ≤ ${given(own.norm)}`,
      own.limited.checked && own.worse.textContent, own.few.checked && "few examples first", frozen.length && `without ${frozen.join(", ")}`].filter(Boolean).join(" · ");
  }

  /* What it allows, for the compositions of a state; see optimum.js. A field that does not fit limits nothing. How far the ω may move
  from where they stand is left out: it is told of a search, and every move would begin another one. */
  function limits(own, { omegas }) {
    const above = (input) => { const value = number(input.value); return value > 0 ? value : null; };
    const [low, high] = [own.low, own.high].map((input) => number(input.value)), range = low !== null && high !== null && low < high;
    const frozen = kept(own);
    const ends = own.info.vectors.flatMap(({ name }) => (frozen.includes(name) ? [[name, [omegas[name], omegas[name]]]] : range ? [[name, [low, high]]] : []));
    return { bounds: Object.fromEntries(ends), sum: above(own.sum), norm: above(own.norm), spares: own.limited.checked && own.aim.value !== "score" };
  }

  /* What is asked for, or null if a field does not fit.
     `tell`: whether faults are shown now; else only those that are mended are taken away. */
  function wanted(own, tell) {
    const [least, most] = own.info.range, faults = new Map(), score = own.aim.value === "score", other = score && own.tasks.value === OTHER;
    const read = (input, check, empty = null) => {
      if (input.value.trim() === "" && empty === null) return null;
      const value = number(input.value), problem = value === null ? `“${input.value}” is not a number` : check(value);
      if (problem) faults.set(input, problem);
      return value;
    };
    const whole = (value) => (!Number.isInteger(value) || value < 1 ? "give a whole number from 1" : "");
    const above = (value) => (value > 0 ? "" : "give a number above 0");
    const within = (value) => (value < least || value > most ? `from ${least} to ${most}` : "");
    const asked = {
      aim: own.aim.value, method: own.method.value, groups: own.groups.value, budget: read(own.budget, whole, ""), low: read(own.low, within, ""), high: read(own.high, within, ""),
      reach: read(own.reach, above), highest_sum: read(own.sum, above), highest_norm: read(own.norm, above),
      limited: own.limited.checked, screened: own.few.checked, frozen: kept(own),
    };
    if (!faults.has(own.low) && !faults.has(own.high) && asked.low >= asked.high) faults.set(own.high, `above ${asked.low}`);
    if (ticked(own).length) {
      const vary = Object.fromEntries(ticked(own).map(({ name, low, high, ends }) => {
        const inside = (value) => (value < low || value > high ? `from ${low} to ${high}` : "");
        const [from, to] = ends.map((input) => read(input, inside)), given = [from ?? low, to ?? high];
        if (!ends.some((input) => faults.has(input)) && given[0] >= given[1]) faults.set(ends[1], `above ${given[0]}`);
        return [name, from === null && to === null ? null : given];
      }));
      Object.assign(asked, { merge: own.merge, vary });
    }
    if (score) {
      const [kind, name] = own.tasks.value.split(" ");
      const names = other ? own.named.value.split(/[,\s]+/).filter(Boolean) : kind === "task" ? [name] : [];
      if (other && !names.length) faults.set(own.named, "name a task or more");
      Object.assign(asked, { tasks: names, suite: kind === "suite" ? name : "", limit: read(own.limit, whole) });
    }
    for (const { input, error } of [...own.fields, ...own.ranges]) {
      const fault = faults.get(input) ?? "";
      if (!tell && fault) continue;
      text(error, fault);
      input.toggleAttribute("aria-invalid", !!fault);
      if (fault && own.more.contains(input)) own.more.open = true;
    }
    return faults.size ? null : asked;
  }

  globalThis.dem.searchForm = { build, follow, wanted, fits, numbers, limits };
})();
