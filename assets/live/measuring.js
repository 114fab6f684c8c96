/* What the page says of the losses that it shows: which they are, of how many examples, and how much is still to be measured. */
(() => {
  const { status } = globalThis.dem.state;

  /* The seconds that are left, in words; "" if they are not known yet. */
  function left(seconds) {
    if (seconds === null) return "";
    const whole = Math.max(1, Math.ceil(seconds));
    return whole < 100 ? `${whole} s left` : `${Math.ceil(whole / 60)} min left`;
  }

  /* How far the losses of what is shown are; "" if nothing is being measured for it. */
  function far(state) {
    if (!["quick", "part"].includes(status(state).losses) || !state.losses.measuring) return "";
    const { composition, compositions, seconds } = state.losses.measuring;
    const what = compositions > 1 ? `measuring ${composition} of ${compositions} compositions` : "measuring all examples";
    return [what, left(seconds)].filter(Boolean).join(" · ");
  }

  /* Which losses are shown. A dataset is exact once its loss, the base's and its expert's are of all examples.
     `count` is the number of datasets. */
  function which({ points, whole, stage }, count) {
    const each = Object.values(points), n = each.reduce((sum, point) => sum + point.n, 0);
    if (stage === "preview") return `preview, n = ${n}; exact when you stop`;
    if (whole) return `exact, n = ${n}`;
    const exact = each.filter((point) => point.ends && !point.quick).length;
    if (exact) return `${exact} of ${count} datasets exact; the others follow`;
    if (each.some((point) => point.quick)) return `quick, n = ${n}; all examples follow`;
    return each.length ? "shares follow" : "measuring…";
  }

  globalThis.dem = Object.assign(globalThis.dem ?? {}, { measuring: { left, far, which } });
})();
