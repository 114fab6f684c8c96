/* Page script: copy buttons, theme, sorting of tables. The live line has scripts of its own, in live/. */
(() => {
  const press = (id) => { const button = document.getElementById(id); if (button) button.click(); };

  Object.assign(window.dem, {
    dark: () => document.body.classList.contains("dark"),
    theme() {
      const kept = localStorage.getItem("dem-theme");
      if (kept && !new URLSearchParams(location.search).has("__theme")) document.body.classList.toggle("dark", kept === "dark");
      return window.dem.named();
    },
    toggleTheme() {
      document.body.classList.toggle("dark");
      localStorage.setItem("dem-theme", window.dem.dark() ? "dark" : "light");
      return window.dem.named();
    },
    named() {
      const button = document.getElementById("theme-toggle");
      if (button) button.textContent = window.dem.dark() ? "light" : "dark";
      return window.dem.dark() ? "dark" : "light";
    },
  });

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
    const target = event.target.closest ? event.target.closest("[data-copy], [data-press], [data-go], .sort") : null;
    if (!target) return;
    if (target.matches(".sort")) sort(target);
    else if (target.matches("[data-go]")) window.dem.line.event({ type: "go", to: JSON.parse(target.dataset.go) });
    else if (target.matches("[data-press]")) { // a button of a row presses a hidden gradio button, which reads the row from dem.value
      window.dem.value = target.dataset.value;
      press(target.dataset.press);
    }
    else copy(target);
  });
})();
