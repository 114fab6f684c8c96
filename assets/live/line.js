/* The line to the server: carries out the effects of the state machine, and turns what the server says into events.

A wish is a POST whose answer is a stream of lines, each a JSON object. Nothing here decides anything: see state.js. */
(() => {
  const { empty, step, active } = globalThis.dem.state;
  const BEAT = 2000; // milliseconds between two questions whether the server is here
  const PATIENCE = 4000; // milliseconds after which a question without an answer counts as none
  const PAUSE = 300; // milliseconds until a state is stored for a reload, and until a rest gets an entry of the browser's history
  const token = () => Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");

  /* Splits chunks of text into whole lines, each parsed; a line that is cut between two chunks waits for its end. */
  function lines(onMessage) {
    let tail = "";
    return (chunk) => {
      const parts = (tail + chunk).split("\n");
      tail = parts.pop();
      for (const part of parts) if (part.trim()) onMessage(JSON.parse(part));
    };
  }

  /* The part of a state that a page comes back to, also if the server was away when it was left. */
  const kept = ({ info, method, parameters, omegas, past, future, prompt, plain }) =>
    ({ models: info.models, method, parameters, omegas, past, future, prompt, plain, address: location.hash });

  const post = (route, body) => fetch(route, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

  class Line {
    constructor() {
      // A reload comes back to this page's own state; a second tab begins with a copy of what the address names.
      this.page = sessionStorage.getItem("dem-page") ?? token();
      sessionStorage.setItem("dem-page", this.page);
      this.client = `${this.page}-${token().slice(0, 8)}`; // turns count from 0 in each life of the page
      this.state = empty();
      this.listeners = new Set();
    }

    /* Calls `listener` with the state now, and after every event. */
    listen(listener) {
      this.listeners.add(listener);
      listener(this.state);
      return () => this.listeners.delete(listener);
    }

    event(event) {
      const [state, effects] = step(this.state, event);
      const changed = state !== this.state;
      this.state = state;
      if (state.info?.models && event.type !== "here") this.storing ??= setTimeout(() => this.store(), PAUSE);
      if (changed || event.type === "kept") for (const listener of this.listeners) listener(state, event);
      for (const effect of effects) this[effect.do](effect);
    }

    /* Stores the state for a reload. Not at each event: the history may be long, and a hand makes sixty events a second. */
    store() {
      clearTimeout(this.storing);
      this.storing = undefined;
      if (this.state.info?.models) sessionStorage.setItem("dem-state", JSON.stringify(kept(this.state)));
    }

    async open() {
      const recipe = this.state.info?.models ? "" : new URL(location.href).hash.match(/^#recipe=([0-9a-f]+)$/)?.[1] ?? "";
      const query = new URLSearchParams({ page: this.page, recipe });
      let info;
      try {
        const answer = await fetch(`live/open?${query}`, { signal: AbortSignal.timeout(30_000) });
        if (answer.status === 401) return location.reload(); // the login has ended
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        info = await answer.json();
      } catch {
        return this.event({ type: "failed" });
      }
      const own = JSON.parse(sessionStorage.getItem("dem-state") ?? "null");
      const names = (omegas) => Object.keys(omegas).sort().join("\n");
      const fits = own && (info.models ? own.models === info.models : info.vectors && names(own.omegas) === names(info.state.omegas));
      // Unless the address was changed to another recipe meanwhile.
      if (fits && own.address === location.hash) info.state = own;
      this.event({ type: "opened", info });
    }

    async send({ wish }) {
      const { turn } = wish;
      this.request?.abort(); // the answer to an older wish is of no use any more
      const request = this.request = new AbortController();
      try {
        const answer = await fetch("live/move", {
          method: "POST", headers: { "content-type": "application/json" }, signal: request.signal,
          body: JSON.stringify({ page: this.client, ...wish }),
        });
        if (answer.status === 400) {
          const { error } = await answer.json();
          return this.event({ type: "line", message: { turn, stage: "refused", message: error, field: "" } });
        }
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        const read = lines((message) => this.event({ type: "line", message }));
        const decoder = new TextDecoder();
        for await (const chunk of chunks(answer.body)) read(decoder.decode(chunk, { stream: true }));
        this.event({ type: "ended", turn });
      } catch {
        if (!request.signal.aborted) this.event({ type: "failed", turn });
      }
    }

    async keep({ models, state }) {
      let kept = null;
      try {
        const answer = await fetch("live/keep", {
          method: "POST", headers: { "content-type": "application/json" }, keepalive: true,
          body: JSON.stringify({ page: this.page, models, state }),
        });
        kept = answer.ok ? await answer.json() : null;
      } catch { /* the server is gone: the next beat says so, and the state is kept when it is back */ }
      if (kept) this.event({ type: "kept", ...kept });
    }

    /* Asks for the forecast. If more is learned meanwhile, it asks once more. */
    async forecast() {
      if (this.asking) { this.again = true; return; }
      this.asking = true;
      try {
        do {
          this.again = false;
          const answer = await fetch("live/forecast");
          if (answer.ok) this.event({ type: "forecast", forecast: new globalThis.dem.Forecast(await answer.json()).prepare() });
        } while (this.again);
      } catch { /* the server is gone: the next beat says so, and what was known still predicts */ }
      this.asking = false;
    }

    /* Begins a search of ω, ends the one that runs, or goes on with one that was stopped. What is not wanted has its default. */
    search = (wanted) => this.asked("live/search", { models: this.state.info.models, omegas: this.state.omegas, wanted });
    stopSearch = () => this.asked("live/search/stop", {});
    resumeSearch = () => this.asked("live/search/resume", {});

    /* The command of a search and its expected seconds, or the error that it would get. */
    async planSearch(wanted) {
      try {
        const answer = await post("live/search/plan", { models: this.state.info.models, omegas: this.state.omegas, wanted });
        return await answer.json();
      } catch { return {}; } // the server is gone: the next beat says so
    }

    async asked(route, body) {
      try {
        const answer = await post(route, body), said = await answer.json();
        if (route !== "live/search/stop") this.event({ type: "finding", ...(answer.ok ? { search: said } : { error: said.error }) });
        else this.beat();
      } catch { this.event({ type: "failed" }); }
    }

    /* The address names the recipe; Back and Forward go through the recipes that the page came to rest at. */
    address({ digest }) {
      clearTimeout(this.addressing);
      this.addressing = setTimeout(() => {
        const hash = `#recipe=${digest}`, { settled, sent, dirty, held } = this.state;
        if (sent || dirty || held) return this.address({ digest }); // the hand may come back to it, which is no new rest
        if (settled?.digest !== digest || hash === location.hash) return;
        history[location.hash.startsWith("#recipe=") ? "pushState" : "replaceState"](null, "", hash);
        this.store(); // with the address
      }, PAUSE);
    }

    async returned() {
      const digest = location.hash.match(/^#recipe=([0-9a-f]+)$/)?.[1];
      if (!digest || !this.state.info?.models) return;
      const answer = await fetch(`live/open?${new URLSearchParams({ recipe: digest })}`);
      const { state, note } = await answer.json();
      if (!note) this.event({ type: "go", to: state });
    }

    async beat() {
      let here;
      try {
        const answer = await fetch("live/here", { signal: AbortSignal.timeout(PATIENCE) });
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        here = await answer.json();
      } catch {
        return this.event({ type: "failed" });
      }
      this.event({ type: "here", ...here });
    }

    start() {
      this.open();
      const beat = async () => {
        if (!document.hidden) await (this.state.info?.models ? this.beat() : this.open());
        setTimeout(beat, !this.state.info?.models ? 400 : active(this.state.search) ? BEAT / 2 : BEAT);
      };
      setTimeout(beat, 400);
      addEventListener("popstate", () => this.returned());
      addEventListener("pagehide", () => this.store());
      document.addEventListener("visibilitychange", () => { if (!document.hidden) this.beat(); });
    }
  }

  async function* chunks(body) { // not every browser can iterate over a stream
    const reader = body.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield value;
    }
  }

  globalThis.dem.lines = lines;
  globalThis.dem.Line = Line;
})();
