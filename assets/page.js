/* Page script: settling of the sliders, keys, copy buttons, theme, sorting. It stores no values of the model. */
(() => {
  const SETTLE = 180; // milliseconds without a change before anything expensive starts
  const TYPED = 900; // the same after a key press in a number field
  const HELD = 1500; // the same while a thumb is held and previews follow it: a pause is not yet the end of a drag
  const PATIENCE = 5000; // milliseconds after which an unanswered preview no longer blocks the next
  let timer = 0, written = false, wishes = 0, asked = 0, waiting = null, held = false;
  const press = (id) => { const button = document.getElementById(id); if (button) button.click(); };
  const shown = () => [...document.querySelectorAll("#sliders .omega input[type=range]")];
  const two = (value) => Math.abs(value).toFixed(2);

  function figures() { // show two decimals in number boxes, as everywhere else
    document.querySelectorAll("#sliders .omega input[type=number]").forEach((box) => {
      if (box === document.activeElement || box.value === "") return;
      const text = (+box.value).toFixed(2);
      if (box.value !== text) box.value = text;
    });
  }

  function refused() { // report a number out of range at its box; leaving the box clips it
    const box = document.activeElement;
    if (!box?.matches("#sliders .omega input[type=number]")) return false;
    return (box.validity.rangeOverflow || box.validity.rangeUnderflow) && !box.reportValidity();
  }

  function readout() { // update the formula at once; after settling the server's formula replaces it
    shown().forEach((range, place) => {
      const term = document.querySelector(`.formula [data-term="${place}"]`);
      if (!term) return;
      const value = +range.value;
      const number = term.querySelector("b"), sign = term.querySelector(".sign");
      if (!number) return; // the method has no ω
      number.textContent = two(value);
      sign.textContent = value < 0 ? sign.dataset.minus : sign.dataset.plus;
      term.classList.toggle("zero", value === 0);
    });
  }

  const dem = {
    moved(wait = held && document.querySelector("section.bullets.preview") ? HELD : SETTLE, place = null) {
      readout();
      setTimeout(figures, 30);
      const state = document.getElementById("state");
      if (state && !state.classList.contains("moving") && !state.classList.contains("preview")) {
        state.className = "state composing moving";
        state.lastChild.textContent = "composing";
      }
      document.querySelector("section.bullets:not(.preview)")?.classList.add("behind");
      dem.settle(wait);
      if (document.querySelector(`#omega-${place}.adapter`)) dem.preview(place);
    },
    preview(place) { // one request at a time; the last move meanwhile waits, and settling follows in any case
      const now = performance.now();
      waiting = asked && now - asked < PATIENCE ? place : null;
      if (waiting !== null) return;
      if (refused()) return;
      asked = now;
      press("preview");
    },
    previewed() {
      asked = 0;
      const place = waiting;
      waiting = null;
      if (place !== null && timer) dem.preview(place);
    },
    numbered: (words) => [++wishes, ...words.slice(1)], // the server drops a request that arrives after a newer one
    typed() { // wait while a number is being typed; an empty field counts only when it is left
      const box = document.activeElement;
      written = true;
      if (box && box.matches("input[type=number]") && box.value === "") clearTimeout(timer);
      else dem.moved(TYPED);
    },
    entered() {
      if (written) dem.moved(20);
      written = false;
    },
    settle(wait = SETTLE) {
      clearTimeout(timer);
      timer = setTimeout(() => {
        timer = 0;
        if (refused()) return;
        written = false;
        dem.settledAt = performance.now();
        figures();
        press("settle");
      }, wait);
    },
    arrived() {
      if (!shown().length) return;
      for (const wait of [50, 300, 1000, 3000]) setTimeout(figures, wait); // gradio fills the boxes at some later time
      dem.settle(50);
    },
    dark: () => document.body.classList.contains("dark"),
    theme() {
      const kept = localStorage.getItem("dem-theme");
      if (kept && !new URLSearchParams(location.search).has("__theme")) document.body.classList.toggle("dark", kept === "dark");
      return dem.named();
    },
    toggleTheme() {
      document.body.classList.toggle("dark");
      localStorage.setItem("dem-theme", dem.dark() ? "dark" : "light");
      return dem.named();
    },
    named() {
      const button = document.getElementById("theme-toggle");
      if (button) button.textContent = dem.dark() ? "light" : "dark";
      return dem.dark() ? "dark" : "light";
    },
  };
  window.dem = dem;

  async function copy(button) {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no permission, or no secure origin
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const before = button.textContent;
    button.textContent = "copied";
    setTimeout(() => { button.textContent = before; }, 1200);
  }

  function sort(button) {
    const head = button.closest("th"), body = button.closest("table").tBodies[0];
    const place = [...head.parentNode.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    head.parentNode.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[place].textContent.trim();
    const number = (text) => parseFloat(text.replace("−", "-").replace("±", ""));
    [...body.rows]
      .sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        const [p, q] = [number(x), number(y)];
        const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
        return down ? -order : order;
      })
      .forEach((row) => body.append(row));
  }

  document.addEventListener("click", (event) => {
    const target = event.target.closest ? event.target.closest("[data-copy], [data-press], .sort") : null;
    if (!target) return;
    if (target.matches(".sort")) sort(target);
    else if (target.matches("[data-press]")) { // a button of a row presses a hidden gradio button, which reads the row from dem.value
      dem.value = target.dataset.value;
      press(target.dataset.press);
    }
    else copy(target);
  });

  document.addEventListener("pointerdown", (event) => { held = !!event.target.matches?.(".omega.adapter input[type=range]"); }, true);
  const released = () => {
    if (held && timer) dem.settle();
    held = false;
  };
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, released, true);
  window.addEventListener("blur", released); // the pointer may be released outside the page

  document.addEventListener("click", (event) => {
    // The server is about to write the sliders, so do not settle what they show until then.
    if (event.target.closest?.("#undo, #redo")) clearTimeout(timer);
  }, true);

  document.addEventListener("keydown", (event) => {
    const field = event.target.matches?.("input:not([type=range]), textarea, [contenteditable]");
    const key = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && !field && (key === "z" || key === "y")) {
      event.preventDefault();
      press(key === "y" || event.shiftKey ? "redo" : "undo");
      return;
    }
    const range = event.target;
    if (!range.matches?.(".omega input[type=range]")) return;
    const sign = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    let value = null;
    if (event.shiftKey && sign) value = +range.value + sign * 0.1;
    else if (event.key === "0") value = 0;
    if (value === null) return;
    event.preventDefault();
    range.value = Math.min(+range.max, Math.max(+range.min, value)).toFixed(2);
    range.dispatchEvent(new Event("input", { bubbles: true }));
  });

  function formulas() { // show its formula under each name in the list of methods
    const known = JSON.parse(document.querySelector("[data-formulas]")?.dataset.formulas || "{}");
    document.querySelectorAll("#method [role=option]").forEach((option) => {
      option.dataset.formula = known[option.getAttribute("aria-label")] || "";
    });
  }
  let watcher = null;
  document.addEventListener("focusin", (event) => {
    const box = event.target.closest?.("#method");
    if (!box || watcher) return;
    watcher = new MutationObserver(formulas);
    watcher.observe(box, { childList: true, subtree: true, characterData: true });
    formulas();
  });

  document.addEventListener("focusout", () => requestAnimationFrame(figures));
})();
