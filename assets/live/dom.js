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

  globalThis.dem.dom = { h, text, swatch, message, command };
})();
