// The chat of the collection: a draft that survives a reload, one message at a time, and the answer asked for until it is there. The server decides about all.
(() => {
  const root = document.documentElement, pair = () => document.getElementById("pair"), text = () => document.getElementById("text");
  let shown = "", sent = null, asked = 0;
  const place = () => "collect-" + (pair() ? pair().dataset.chat : "");
  const id = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

  window.collect = {
    facts: () => {
      const turn = pair() ? +pair().dataset.turns : 0, value = text() ? text().value : "";
      // The same text at the same place is the same message: sending it again after a lost answer is sending it once.
      if (!sent || sent.turn !== turn || sent.text !== value || sent.chat !== place()) sent = { turn, text: value, id: id(), chat: place() };
      return JSON.stringify({ turn: sent.turn, id: sent.id, text: sent.text });
    },
  };

  const flag = (name, on) => { if (on) root.dataset[name] = ""; else delete root.dataset[name]; };

  new MutationObserver(() => {
    const now = pair();
    if (!now || now.dataset.shown === shown) return;
    const first = shown === "";
    shown = now.dataset.shown;
    const box = text(), waiting = now.dataset.waiting === "1";
    if (sent && (sent.chat !== place() || +now.dataset.turns > sent.turn)) {
      const mine = [...document.querySelectorAll(".message.mine")][sent.turn];
      if (sent.chat !== place() || (mine && mine.querySelector(".typed").textContent.trim() === sent.text.trim())) {
        if (box && box.value === sent.text) box.value = "";
        sessionStorage.removeItem(sent.chat);
        sent = null;
      }
    }
    if (box && !box.value) box.value = sessionStorage.getItem(place()) || "";
    flag("waiting", waiting);
    flag("full", now.dataset.full === "1");
    // An answer that is due is asked for once by itself; if it does not come, the person tries again.
    const failed = waiting && asked === place() + now.dataset.turns;
    flag("failed", failed);
    if (failed) document.getElementById("writing").textContent = "No answer yet.";
    if (waiting && !failed) {
      asked = place() + now.dataset.turns;
      document.getElementById("reply").click();
    }
    if (!waiting) asked = 0;
    if (!first || +now.dataset.turns) {
      const last = [...document.querySelectorAll(".message")].pop();
      if (last) setTimeout(() => last.scrollIntoView({ block: "nearest" }), 60);
    }
  }).observe(root, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-shown"] });

  document.addEventListener("input", (event) => {
    if (event.target.id === "text") sessionStorage.setItem(place(), event.target.value);
  });

  // Nothing is sent while an answer is awaited, and no empty message.
  window.addEventListener("click", (event) => {
    const send = event.target.closest && event.target.closest("#send");
    if (send && ("waiting" in root.dataset || "full" in root.dataset || !text().value.trim())) {
      event.stopImmediatePropagation();
      event.preventDefault();
      text().focus();
    }
  }, true);

  window.addEventListener("keydown", (event) => {
    if (event.target.id !== "text") {
      if (pair() && pair().dataset.chat) event.stopImmediatePropagation(); // the voting page's keys mean nothing here
      return;
    }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && matchMedia("(hover: hover)").matches) {
      event.preventDefault();
      if (!event.repeat) document.getElementById("send").click();
    }
  }, true);
})();
