/* Starts the line of this page once, and gives each component its element when gradio draws it. */
(() => {
  const { dem } = globalThis;
  dem.line = new dem.Line();
  let started = false;
  const start = () => {
    if (!started) dem.line.start();
    started = true;
  };
  // At once: gradio takes a second or more to build the page. On the login page there is nothing to ask for yet.
  if (!globalThis.gradio_config?.auth_required) start();

  /* Called by the components' js_on_load, with the part of the page that they show. */
  dem.mount = (part, element) => {
    const root = element.querySelector(".live");
    if (!root || root.dataset.part) return;
    root.dataset.part = part;
    dem[part](root, dem.line);
    start();
  };

  /* Hands the digest of the composition at rest to gradio's tabs, through a component whose value it becomes. While Compose is
  shown it is kept back: the other tabs would compute what nobody sees, beside the losses that the hand waits for. */
  dem.hand = (props) => {
    let kept = "";
    const give = () => { if (props.value !== kept) props.value = kept; }; // gradio calls the listeners of a value that changed
    // Until gradio has drawn the tabs, Compose is the one that will be shown.
    const composing = () => document.getElementById("tab-compose-button")?.getAttribute("aria-selected") !== "false";
    dem.line.listen((state, event) => {
      if (event && event.type !== "kept") return;
      const now = state.settled?.digest ?? "";
      if (event && event.digest !== now) return; // the composition of before, or of models that were open before
      kept = now; // it may have come to rest before gradio was there
      if (event && !composing()) give();
    });
    /* Other models are open: no tab may ask for a composition of those before. Until the next rest "" stands for the server's own. */
    dem.follow = () => {
      kept = "";
      give();
      dem.line.open();
    };
    document.addEventListener("click", (event) => { if (event.target.closest?.("#tabs [role=tab]")) give(); }, true);
  };

  /* Waits until the last move has settled and was kept, and returns the inputs of a listener with the digest of that rest. */
  dem.atRest = async (values, index) => {
    const resting = (state) => !state.sent && !state.dirty && !Object.keys(state.errors).length && state.settled;
    for (let left = 100; left && !resting(dem.line.state); left -= 1) await new Promise((go) => setTimeout(go, 100));
    const digest = dem.line.state.settled?.digest ?? "";
    return values.map((value, place) => (place === index ? digest : value));
  };

  document.addEventListener("keydown", (event) => {
    const field = event.target.matches?.("input:not([type=range], [type=checkbox]), textarea, [contenteditable]");
    const key = event.key.toLowerCase();
    if (!(event.ctrlKey || event.metaKey) || field || (key !== "z" && key !== "y")) return;
    event.preventDefault();
    dem.line.event({ type: key === "y" || event.shiftKey ? "redo" : "undo" });
  });
})();
