/* Builds elements. Text goes in as text, so a name never becomes markup. */
(() => {
  /* h("button.small", { onclick, title, "data-x": 1 }, "text", child…) */
  function h(tag, props = {}, ...children) {
    const [name, ...classes] = tag.split(".");
    const element = document.createElement(name);
    element.classList.add(...classes);
    for (const [key, value] of Object.entries(props)) {
      if (value === undefined || value === null || value === false) continue;
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (key.startsWith("--")) element.style.setProperty(key, value);
      else element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  }

  /* The same for a picture: svg("path", { d }). */
  function svg(tag, props, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(props)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  /* Sets text only where it differs, so that a selection or a focus is not lost. */
  function text(element, value) {
    if (element.textContent !== value) element.textContent = value;
  }

  const swatch = (colour) => h("i.swatch", { "--c": `var(--dataset-${colour})`, "aria-hidden": "true" });

  const message = (kind, title, ...children) =>
    h(`div.message.${kind}`, kind === "problem" ? { role: "alert" } : {}, h("strong", {}, title), ...children);

  /* A command line with a copy button, which page.js serves. */
  const command = (line) =>
    h("div.cli", {}, h("span", { "aria-hidden": "true" }, "$"), h("code", { tabindex: "0" }, line),
      h("button.copy", { type: "button", "data-copy": line, "aria-label": "Copy the command" }, "copy"));

  const LATE = 50; // milliseconds from asking for a frame until it is drawn, from which on the machine counts as busy

  /* Returns a function that draws the newest state in the next frame. On a busy machine it then leaves twice as long
  until the next one as that frame took, so that drawing does not hold up the answers that it waits for. */
  function painter(draw) {
    let newest = null, waits = false, busy = false, frame = 0, timer = 0, free = 0;
    const painted = new MessageChannel(); // its message is received after the frame was laid out and painted
    painted.port1.onmessage = ({ data: begin }) => {
      const took = performance.now() - begin;
      free = took > LATE ? performance.now() + 2 * took : 0;
      busy = false;
      if (waits) next();
    };
    const ask = () => {
      const begin = performance.now();
      timer = 0;
      frame = requestAnimationFrame(() => {
        frame = 0;
        waits = false;
        draw(newest);
        painted.port2.postMessage(begin);
      });
    };
    const next = () => {
      busy = true;
      const left = free - performance.now();
      if (left > 0) timer = setTimeout(ask, left);
      else ask();
    };
    const paint = (state) => {
      newest = state;
      waits = true;
      if (!busy) next();
    };
    paint.cancel = () => {
      waits = false;
      if (!frame && !timer) return;
      clearTimeout(timer);
      cancelAnimationFrame(frame);
      frame = timer = 0;
      busy = false;
    };
    return paint;
  }

  /* Tells when a hand takes a slider (true) and when it lets go (false), which some browsers say in several ways. */
  function holding(range, tell) {
    range.addEventListener("pointerdown", () => tell(true));
    for (const end of ["pointerup", "pointercancel", "change", "blur"]) range.addEventListener(end, () => tell(false));
  }

  globalThis.dem.dom = { h, svg, text, swatch, message, command, painter, holding };
})();
