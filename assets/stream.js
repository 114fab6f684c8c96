/* Keeps gradio's answers in order. gradio sends them over two connections, which the browser may read in another order.

The receipt of an event is the response to its request. Everything else about the event comes over one stream, which the
server closes when no answer is due. If the browser reads them in another order than they were sent, answers get lost or late:
  - If it reads a receipt before the end of the old stream, the page believes that the stream is still open and waits for an
    answer that nobody fetches. So a receipt waits until the stream has named its event (which happens at once) or is closed.
  - If it reads stream messages of an event before its receipt, gradio puts them aside and later lets them overtake older
    messages. So the stream waits for the receipt of every event that it names. */
(() => {
  const PATIENCE = 1000; // milliseconds after which neither waits for the other
  const TURNS = 3; // turns of the event loop after which gradio has read a receipt
  const native = window.fetch;
  const events = new Map();
  const late = () => new Promise((go) => setTimeout(go, PATIENCE));
  let closed = Promise.resolve(); // resolves when the stream is closed

  // A message channel and not a timer: gradio uses timers of 0 ms itself, and browsers delay nested timers.
  const { port1, port2 } = new MessageChannel(), turning = [];
  port1.onmessage = () => turning.shift()();
  const turn = () => new Promise((go) => { turning.push(go); port2.postMessage(0); });

  function event(id) {
    if (!events.has(id)) {
      const state = {};
      state.isNamed = new Promise((go) => { state.named = go; });
      state.isHanded = new Promise((go) => { state.handed = go; });
      events.set(id, state);
    }
    return events.get(id);
  }

  function inOrder() {
    const decoder = new TextDecoder(), met = new Set();
    let tail = "";
    return new TransformStream({
      async transform(chunk, out) {
        const text = tail + decoder.decode(chunk, { stream: true });
        tail = text.slice(-100); // an id may be split between two chunks
        for (const [, id] of text.matchAll(/"event_id":\s*"(\w{32})"/g)) {
          if (met.has(id)) continue;
          met.add(id);
          event(id).named();
          await Promise.race([event(id).isHanded, late()]);
          for (let left = TURNS; left; left -= 1) await turn();
        }
        out.enqueue(chunk);
      },
    });
  }

  window.fetch = async (request, options) => {
    const { pathname } = new URL(request.url ?? request, location.href);
    if (pathname.endsWith("/queue/data")) {
      closed = new Promise((go) => request.signal.addEventListener("abort", () => { events.clear(); go(); }));
      const answers = await native(request, options);
      return answers.ok ? new Response(answers.body.pipeThrough(inOrder()), answers) : answers;
    }
    const receipt = await native(request, options);
    if (!receipt.ok || !pathname.endsWith("/queue/join")) return receipt;
    const text = await receipt.text();
    const id = JSON.parse(text).event_id;
    await Promise.race([event(id).isNamed, closed, late()]);
    event(id).handed();
    return new Response(text, receipt);
  };
})();
