// The three questions of a detection study: what is chosen so far, kept in the tab until it is sent. What decides is the server's check of it.
(() => {
  let now = {}, mark = "";
  const $ = (selector) => [...document.querySelectorAll(selector)];
  const pair = () => document.getElementById("pair");
  const visible = (element) => element && element.getClientRects().length > 0;
  const place = (mark) => "detect-" + mark;

  const lacking = () =>
    !now.choice ? "First: which of the two is artificial?"
    : !now.confidence ? "Now: how confident are you?"
    : now.choice !== "tie" && !now.number ? "Now click on the utterance that gave it away."
    : "";

  const render = () => {
    for (const button of $("[data-choice]")) button.setAttribute("aria-pressed", button.dataset.choice === now.choice);
    for (const button of $("[data-confidence]")) button.setAttribute("aria-pressed", +button.dataset.confidence === now.confidence);
    for (const one of $(".utterance"))
      one.querySelector(".pick").setAttribute("aria-pressed", one.dataset.side === now.side && +one.dataset.number === now.number);
    const what = document.getElementById("picked"), given = now.number ? `Utterance ${now.number} of dialogue ${now.side === "left" ? 1 : 2} gave it away. ` : "";
    const said = given + lacking();
    if (what && what.textContent !== said) what.textContent = said;
    const say = document.getElementById("say");
    if (say) say.classList.toggle("lacking", lacking() !== "");
  };

  const change = (values) => {
    Object.assign(now, values);
    if (mark) sessionStorage.setItem(place(mark), JSON.stringify(now));
    render();
  };

  // Another pair: what was begun of it in this tab, or nothing. What belongs to pairs that are done is forgotten.
  new MutationObserver(() => {
    const found = pair() ? pair().dataset.ballot : "";
    if (found !== mark) {
      mark = found;
      now = {};
      try { now = (mark && JSON.parse(sessionStorage.getItem(place(mark)))) || {}; } catch { /* nothing of ours */ }
      for (const key of Object.keys(sessionStorage)) if (key.startsWith("detect-") && key !== place(mark)) sessionStorage.removeItem(key);
      for (const one of $(".dialogues .scroll")) one.scrollTop = 0;
    }
    render();
  }).observe(document.documentElement, { subtree: true, childList: true });

  window.detect = { facts: () => JSON.stringify({ ...JSON.parse(window.ballot.facts()), ...now }) };

  document.addEventListener("click", (event) => {
    if (!event.target.closest) return;
    const choice = event.target.closest("[data-choice]"), sure = event.target.closest("[data-confidence]"), one = event.target.closest(".utterance");
    if (choice) change({ choice: choice.dataset.choice });
    else if (sure) change({ confidence: +sure.dataset.confidence });
    else if (one && !String(getSelection())) change({ side: one.dataset.side, number: +one.dataset.number }); // who marks text to read it chooses nothing
  });

  // Before the voting page's own keys, none of which means anything here.
  window.addEventListener("keydown", (event) => {
    if (!visible(document.getElementById("say")) || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.isComposing) return;
    if (event.target.closest && event.target.closest("input, textarea, select, [contenteditable=true]")) return;
    const digit = /^[0-9]$/.test(event.key), arrow = /^Arrow(Up|Down|Left|Right)$/.test(event.key);
    const enter = event.key === "Enter" && !(event.target.closest && event.target.closest("button, summary, a"));
    if (!digit && !arrow && !enter) return;
    event.stopImmediatePropagation();
    if (event.repeat && !arrow) return;
    if (digit) {
      const button = document.querySelector(`#answer [data-key="${event.key}"]`);
      if (button) { event.preventDefault(); button.click(); }
    } else if (enter) {
      event.preventDefault();
      document.getElementById("say").click();
    } else {
      event.preventDefault();
      const sideways = { ArrowLeft: "left", ArrowRight: "right" }[event.key];
      const side = sideways || now.side || (now.choice === "right" ? "right" : "left"), all = $(`.utterance[data-side=${side}]`);
      const at = sideways || side !== now.side ? 0 : now.number - 1 + (event.key === "ArrowUp" ? -1 : 1);
      const one = all[Math.max(0, Math.min(all.length - 1, at))];
      change({ side, number: +one.dataset.number });
      one.scrollIntoView({ block: "nearest" });
    }
  }, true);
})();
