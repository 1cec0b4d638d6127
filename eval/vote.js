// Keys, one vote at a time, and what the page knows of a vote: seconds since the pair was shown, layout, input. What decides is the server's check of all this.
(() => {
  let shown = "", since = 0, busy = 0, input = "mouse", given = "mouse";
  const HOLD = 4000; // after a lost answer the buttons are free again
  const MINIMUM = 300; // ms; a second click on a double-clicked button

  window.ballot = {
    facts: () => JSON.stringify({
      seconds: Math.round(performance.now() - since) / 1000,
      layout: matchMedia("(max-width: 45rem)").matches ? "stack" : "row",
      input: given,
    }),
  };

  const buttons = () => [...document.querySelectorAll("#bar button.vote")];
  const mark = () => buttons().forEach((button) => button.classList.toggle("busy", busy > 0));
  const visible = (element) => element && element.getClientRects().length > 0;

  new MutationObserver(() => {
    const stage = document.getElementById("stage"), pair = document.getElementById("pair");
    if (stage && stage.dataset.stage !== document.documentElement.dataset.stage) {
      document.documentElement.dataset.stage = stage.dataset.stage;
      window.scrollTo(0, 0);
    }
    const now = pair ? pair.dataset.shown : "";
    if (now === shown) return;
    shown = now;
    since = performance.now();
    busy = 0;
    mark();
    window.scrollTo(0, 0);
  }).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-shown", "data-stage"] });
  if (new URLSearchParams(location.search).has("admin")) document.documentElement.dataset.admin = "";

  // In the capture phase, before Gradio sees the click: of several only the first goes through, until another pair is there.
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("#bar button.vote");
    if (!button) return;
    const now = performance.now();
    if ((busy && now - busy < HOLD) || now - since < MINIMUM) {
      event.stopImmediatePropagation();
      event.preventDefault();
      return;
    }
    busy = now;
    given = input;
    mark();
    setTimeout(() => { if (busy === now) { busy = 0; mark(); } }, HOLD);
  }, true);

  document.addEventListener("pointerdown", (event) => { input = event.pointerType === "touch" ? "touch" : "mouse"; }, true);

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") input = "key"; // on a focused button
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.isComposing) return;
    if (event.target.closest && event.target.closest("input, textarea, select, [contenteditable=true]")) return;
    const all = buttons();
    const button = event.key === "ArrowLeft" ? all[0] : event.key === "ArrowRight" ? all[all.length - 1] : /^[0-9]$/.test(event.key) ? document.getElementById("vote-" + event.key) : null;
    if (!visible(button)) return;
    event.preventDefault();
    input = "key";
    button.click();
  });
})();
