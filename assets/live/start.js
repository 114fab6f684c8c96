/* Starts the line of this page once, and gives each component its element when gradio draws it. */
(() => {
  const { dem } = globalThis;
  dem.line = new dem.Line();
  let started = false;

  /* Called by the components' js_on_load, with the part of the page that they show. */
  dem.mount = (part, element) => {
    const root = element.querySelector(".live");
    if (!root || root.dataset.part) return;
    root.dataset.part = part;
    dem[part](root, dem.line);
    if (!started) dem.line.start();
    started = true;
  };

  /* Hands the digest of the composition at rest to gradio's tabs, through a component whose value it becomes. While Compose is
  shown it is kept back: the other tabs would compute what nobody sees, beside the losses that the hand waits for. */
  dem.hand = (props) => {
    let kept = "";
    const give = () => { if (props.value !== kept) props.value = kept; }; // gradio calls the listeners of a value that changed
    const composing = () => document.getElementById("tab-compose")?.offsetParent != null;
    dem.line.listen((state, event) => {
      if (event?.type !== "kept") return;
      kept = event.digest;
      if (!composing()) give();
    });
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
