// Keys, one vote at a time, where the focus goes, and what the page knows of a vote: seconds since the pair was shown, layout, input. What decides is the
// server's check of all this.
(() => {
  let shown = "", since = 0, busy = 0, input = "mouse", given = "mouse", lost = false;
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

  // What had the focus is gone or hidden: it goes to the heading of what is there instead, else keys and screen readers would begin at the top again.
  const refocus = () => {
    const stage = (document.documentElement.dataset.stage || "").split(" ")[0];
    const heading = lost && [...document.querySelectorAll(`#panel-${stage} h2`)].find(visible);
    if (!heading) return; // it may come a moment later
    lost = false;
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  };

  // Gradio 6.10 gives each radio button a name of its own, so the arrow keys find no next one, and its groups have no name that is read out.
  const group = () => {
    for (const set of document.querySelectorAll("fieldset")) {
      const label = set.querySelector("[data-testid=block-info]"), options = [...set.querySelectorAll("input[type=radio]")];
      if (!label || !options.length) continue;
      if (!set.hasAttribute("aria-label")) set.setAttribute("aria-label", label.innerText.trim());
      for (const option of options) if (option.name !== options[0].name) option.name = options[0].name;
    }
  };

  new MutationObserver(() => {
    group();
    const stage = document.getElementById("stage"), pair = document.getElementById("pair");
    if (stage && stage.dataset.stage !== document.documentElement.dataset.stage) {
      lost = "stage" in document.documentElement.dataset; // not when the page has just been opened
      document.documentElement.dataset.stage = stage.dataset.stage;
      window.scrollTo(0, 0);
    }
    const now = pair ? pair.dataset.shown : "";
    if (now === shown) return refocus();
    lost ||= now && shown && !buttons().includes(document.activeElement);
    refocus();
    shown = now;
    since = performance.now();
    busy = 0;
    mark();
    window.scrollTo(0, 0);
  }).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-shown", "data-stage", "name"] });
  const asked = new URLSearchParams(location.search);
  if (asked.has("admin")) document.documentElement.dataset.admin = "";
  if (asked.has("t")) document.documentElement.dataset.invited = "";

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
    if (event.repeat && event.target.closest && event.target.closest("#bar")) event.preventDefault(); // a key held down is one vote
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
