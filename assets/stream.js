/* Answers that would never be fetched: keeps the order of what gradio sends over two connections.

gradio closes a page's stream of answers when no answer is due. A page can learn that its next event was received before it
has read of that closing; it then takes the stream for open, and the event's answer waits for nobody. So a receipt is handed
on when the stream has named its event, as it does at once, or when the stream is closed. */
(() => {
  const PATIENCE = 1000; // milliseconds after which a receipt is handed on in any case
  const native = window.fetch;
  const named = new Set(), waiting = new Map();
  let stream = null; // ends the stream of answers that is open

  async function names(body) { // every event is named by an estimation before anything else is said of it
    let rest = "";
    try {
      const reader = body.pipeThrough(new TextDecoderStream()).getReader();
      for (let read; !(read = await reader.read()).done;) {
        const lines = (rest + read.value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const id = line.includes('"estimation"') && line.match(/"event_id":\s*"(\w+)"/)?.[1];
          if (!id) continue;
          if (waiting.has(id)) waiting.get(id)();
          else named.add(id);
        }
      }
    } catch { // it ends as gradio's own reading of it ends, which says so
    }
  }

  function due(id) {
    return new Promise((go) => {
      const done = () => {
        waiting.delete(id);
        named.delete(id);
        clearTimeout(late);
        go();
      };
      const late = setTimeout(done, PATIENCE);
      waiting.set(id, done);
      stream.addEventListener("abort", done, { once: true });
      if (named.has(id)) done();
    });
  }

  window.fetch = async (request, options) => {
    const { pathname } = new URL(request.url ?? request, location.href);
    if (pathname.endsWith("/queue/data")) {
      stream = request.signal;
      const answers = await native(request, options);
      if (answers.ok) names(answers.clone().body);
      return answers;
    }
    const receipt = await native(request, options);
    if (receipt.ok && pathname.endsWith("/queue/join")) {
      const { event_id } = await receipt.clone().json();
      if (stream && !stream.aborted) await due(event_id);
    }
    return receipt;
  };
})();
