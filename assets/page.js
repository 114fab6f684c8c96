/* What the page does by itself: settle the sliders, keys, copy buttons, theme, sorting. No values live here. */
(() => {
  const SETTLE = 180; // milliseconds of rest after the last change before anything expensive starts
  const TYPED = 900; // the same after a key in a number field
  const HELD = 1500; // the same while a thumb is held down and what is shown follows it: a pause is not yet the end of a drag
  const PATIENCE = 5000; // an answer to a preview that is this late is not waited for
  let timer = 0, written = false, wishes = 0, asked = 0, waiting = null, held = false;
  const press = (id) => { const button = document.getElementById(id); if (button) button.click(); };
  const shown = () => [...document.querySelectorAll("#sliders .omega input[type=range]")];
  const two = (value) => Math.abs(value).toFixed(2);

  function figures() { // number boxes with two decimals, as everywhere else
    document.querySelectorAll("#sliders .omega input[type=number]").forEach((box) => {
      if (box === document.activeElement || box.value === "") return;
      const text = (+box.value).toFixed(2);
      if (box.value !== text) box.value = text;
    });
  }

  function refused() { // a number that no slider takes is told where it is written; leaving the box brings it into range
    const box = document.activeElement;
    if (!box?.matches("#sliders .omega input[type=number]")) return false;
    return (box.validity.rangeOverflow || box.validity.rangeUnderflow) && !box.reportValidity();
  }

  function readout() { // the formula follows at once; the server's own formula replaces it when settled
    shown().forEach((range, place) => {
      const term = document.querySelector(`.formula [data-term="${place}"]`);
      if (!term) return;
      const value = +range.value;
      const number = term.querySelector("b"), sign = term.querySelector(".sign");
      if (!number) return; // a method without ω
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
    preview(place) { // one is under way at a time; of the moves meanwhile the last waits, and settling lands in any case
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
    numbered: (words) => [++wishes, ...words.slice(1)], // the server drops what comes after a later wish
    typed() { // a number is being written: half of it is no wish, and an empty field is none before it is left
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
      for (const wait of [50, 300, 1000, 3000]) setTimeout(figures, wait); // gradio writes the boxes in its own time
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
    } catch { // no permission, or not a secure origin
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
    else if (target.matches("[data-press]")) { // a row's button: the hidden one that it names reads which row it is
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
  window.addEventListener("blur", released); // the pointer may be let go where the page does not see it

  document.addEventListener("click", (event) => {
    // The sliders are about to be written by the server: what they show until then is no wish.
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

  function formulas() { // under each name in the list of methods its formula
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
