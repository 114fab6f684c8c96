/* Answers in their order: gradio's page learns over two connections what its server tells it in one order.

The receipt of an event comes as the answer to its request, all else about it over one stream, which the server closes when no
answer is due. Read in another order than they were sent, answers are lost or shown too late:
  - a receipt read before the closing of the stream lets the page take the stream for open, and wait for an answer that
    nobody fetches: so a receipt waits until the stream has named its event, as it does at once, or is closed;
  - what the stream says of an event before its receipt is read is put aside, and then overtakes what was said before
    it: so the stream waits for the receipt of every event that it names. */
(() => {
  const PATIENCE = 1000; // milliseconds after which neither waits for the other any more
  const TURNS = 3; // after so many turns of the page's loop gradio has read a receipt that it was handed
  const native = window.fetch;
  const events = new Map();
  const late = () => new Promise((go) => setTimeout(go, PATIENCE));
  let closed = Promise.resolve(); // kept when the stream is closed

  // Not by a timer: gradio hands on what it reads by timers of 0 ms, and those that timers begin are held back by browsers.
  const { port1, port2 } = new MessageChannel(), turning = [];
  port1.onmessage = () => turning.shift()();
  const turn = () => new Promise((go) => { turning.push(go); port2.postMessage(0); });

  function event(id) {
    if (!events.has(id)) {
      const one = {};
      one.isNamed = new Promise((go) => { one.named = go; });
      one.isHanded = new Promise((go) => { one.handed = go; });
      events.set(id, one);
    }
    return events.get(id);
  }

  function inOrder() {
    const decoder = new TextDecoder(), met = new Set();
    let tail = "";
    return new TransformStream({
      async transform(chunk, out) {
        const text = tail + decoder.decode(chunk, { stream: true });
        tail = text.slice(-100); // an id may be cut in two
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
