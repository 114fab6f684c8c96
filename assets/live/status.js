/* The bar at the top: what is open, and the status in three parts: model, losses, server. And the form and the answer of a question. */
(() => {
  const { h, text } = globalThis.dem.dom;
  const { status } = globalThis.dem.state;
  const { far } = globalThis.dem.measuring;
  const WORDS = {
    model: { settled: "settled", composing: "composing", waiting: "waiting", "": "–" },
    losses: { full: "full", quick: "quick", part: "in part", preview: "preview", behind: "behind", "": "–" },
    server: { here: "here", gone: "gone", behind: "other models", empty: "nothing open", loading: "loading" },
  };
  const GOOD = { model: "settled", losses: "full", server: "here" };

  function bar(root, line) {
    const base = h("b"), count = h("span"), digest = h("b.digest"), facts = h("span.facts", {}, h("span", {}, "base ", base), count);
    const recipe = h("span", {}, "recipe ", digest);
    const lights = Object.fromEntries(Object.keys(WORDS).map((key) => [key, h("span", { "data-part": key }, h("i"), h("b"))]));
    const state = h("span.status", { id: "status", role: "status" }, ["model", "losses", "server"].map((key) => h("span.part", {}, `${key} `, lights[key])));
    // Beside the status, which a screen reader reads out when it changes: this changes each second.
    const measuring = h("span.measuring");
    root.replaceChildren(h("div.bar", {}, h("h1", {}, "DEM workbench"), facts, recipe, state, measuring));
    line.listen((now) => {
      const open = now.info?.vectors ? now.info : null;
      facts.hidden = !open;
      if (open) {
        text(base, open.base);
        text(count, `${open.vectors.length} vector${open.vectors.length === 1 ? "" : "s"}`);
      }
      recipe.hidden = !now.settled;
      text(digest, now.settled?.digest ?? "");
      text(measuring, far(now));
      const parts = status(now);
      for (const [key, light] of Object.entries(lights)) {
        light.className = `light ${parts[key] === GOOD[key] ? "good" : parts[key] === "gone" || (key === "server" && parts[key] === "behind") ? "bad" : "busy"}`;
        light.dataset.value = parts[key];
        text(light.lastChild, WORDS[key][parts[key]] ?? "–");
      }
    });
  }

  /* How a question is sent: in the base's chat template, where it has one, or as plain text. */
  function form(root, line) {
    const box = h("input", { type: "checkbox", onchange: () => {
      line.event({ type: "plain", plain: box.checked });
      document.getElementById("send").click(); // both answers, to what the field holds now
    } });
    const hint = h("small");
    root.replaceChildren(h("label", {}, box, h("span", {}, "Send as plain text")), hint);
    line.listen(({ info, plain }) => {
      root.hidden = !info?.template;
      box.checked = plain;
      text(hint, plain ? "Asked without the base's chat template." : "Asked in the base's chat template. Text with its special tokens is taken as it is.");
    });
  }

  function answer(root, line) {
    const words = h("pre", { tabindex: "0" }), note = h("small");
    const box = h("div.answer", { "aria-live": "polite" }, words, note);
    root.replaceChildren(box);
    line.listen((state) => {
      const said = state.answer;
      box.classList.toggle("growing", !!said?.growing);
      box.classList.toggle("behind", !!said && said.digest !== state.settled?.digest);
      text(words, said ? said.text.trimStart() || (said.growing || said.problem ? "" : "(empty answer)") : "");
      text(note, !said ? (state.prompt.trim() ? "" : "Enter a prompt. The answer follows the sliders.") : said.problem
        || `${said.tokens} token${said.tokens === 1 ? "" : "s"} in ${said.seconds.toFixed(1)} s · asked ${said.form} · recipe ${said.digest}`);
    });
  }

  globalThis.dem.bar = bar;
  globalThis.dem.form = form;
  globalThis.dem.answer = answer;
})();
