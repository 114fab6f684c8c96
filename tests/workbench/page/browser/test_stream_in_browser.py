"""No answer is lost where the page sends an event while it reads late that its stream of answers was closed."""

import pytest

pytestmark = pytest.mark.browser

LATE_CLOSINGS = """(() => {
  const native = window.fetch;
  window.closings = 0;
  window.fetch = async (request, options) => {
    const answers = await native(request, options);
    if (!String(request.url ?? request).includes("/queue/data")) return answers;
    const late = new TransformStream({ async transform(chunk, out) {
      const text = new TextDecoder().decode(chunk), at = text.indexOf('data: {"msg":"close_stream"');
      if (at < 0) return out.enqueue(chunk);
      out.enqueue(new TextEncoder().encode(text.slice(0, at)));
      window.closings += 1;
      await new Promise((go) => setTimeout(go, 400));
      out.enqueue(new TextEncoder().encode(text.slice(at)));
    } });
    return new Response(answers.body.pipeThrough(late), answers);
  };
})();"""
"""The browser, reading of each closing 400 ms after it came: as a busy machine or a slow line may."""


@pytest.mark.slow
def test_an_event_sent_while_the_stream_closes_is_answered(small, open_page, steps):
    page = open_page(at=small, script=LATE_CLOSINGS)
    steps.tab(page, "Export")
    page.locator("#export-preflight code").wait_for()
    name = page.locator("#export-name input, #export-name textarea")
    for word in ("one", "two", "three", "four"):
        page.wait_for_timeout(1000)  # until the page is at rest and its stream closed
        closed = page.evaluate("window.closings")
        name.fill(word)
        page.wait_for_function("closed => window.closings > closed", arg=closed)
        name.fill(f"{word}-again")  # its receipt comes before the closing is read
        page.wait_for_function(
            "word => document.querySelector('#export-preflight code').textContent.endsWith(word)",
            arg=f"{word}-again",
            timeout=5000,
        )
