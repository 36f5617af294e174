// What every page has: theme, copy buttons, keys, the overview's filter. No markup is ever made from text here.
"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const store = {
    get(name) { try { return localStorage.getItem(name); } catch { return null; } },
    set(name, value) { try { localStorage.setItem(name, value); } catch { /* not kept */ } },
  };
  const say = (text) => { one("[data-said]").textContent = text; };

  const toggleTheme = () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    store.set("quantgate-theme", root.dataset.theme);
    say(`${root.dataset.theme} theme`);
  };

  const selectAndCopy = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  };
  const copy = async (button) => {
    const code = one("code", button.parentElement);
    let done = false;
    try { await navigator.clipboard.writeText(code.textContent); done = true; } catch { done = selectAndCopy(code); }
    button.textContent = done ? "Copied" : "Select";
    say(done ? "copied" : "could not copy; the command is selected");
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  const help = one("#help");
  const keysOn = one("[data-keys-toggle]");
  keysOn.checked = store.get("quantgate-keys") !== "off";
  keysOn.addEventListener("change", () => store.set("quantgate-keys", keysOn.checked ? "on" : "off"));

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.matches("[data-copy]")) copy(button);
    else if (button.matches("[data-theme-toggle]")) toggleTheme();
    else if (button.matches("[data-help-open]")) help.showModal();
    else if (button.matches("[data-help-close]")) help.close();
  });

  // The overview: j and k walk over the visible cases, n over those that are not green.
  const shown = (selector) => all(selector).filter((link) => !link.closest("[hidden]"));
  const walk = (links, by) => {
    if (!links.length) return false;
    const here = links.indexOf(document.activeElement);
    const place = here < 0 ? (by > 0 ? 0 : links.length - 1) : (here + by + links.length) % links.length;
    links[place].focus();
    links[place].scrollIntoView({ block: "center" });
    return true;
  };

  const keys = {
    n: () => follow("n") || walk(shown(".card [data-case]"), 1),
    p: () => follow("p") || walk(shown(".card [data-case]"), -1),
    j: () => follow("j") || walk(shown("[data-case]"), 1),
    k: () => follow("k") || walk(shown("[data-case]"), -1),
    o: () => follow("o"),
    t: () => { toggleTheme(); return true; },
    c: () => { const code = one("[data-main-command]"); if (code) copy(one("[data-copy]", code.parentElement)); return Boolean(code); },
    "?": () => { help.showModal(); return true; },
  };
  const follow = (key) => {
    const link = one(`a[data-key="${key}"]`);
    if (link) link.click();
    return Boolean(link);
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || help.open || !keysOn.checked) return;
    if (event.target.closest("input:not([type=range]), select, textarea")) return;
    const act = keys[event.key];
    if (act && act()) event.preventDefault();
  });
  window.quantgateKeys = keys;

  // Sorting moves rows inside their verdict's group, which stays worst first.
  const sort = one("[data-sort]");
  if (sort) {
    const groups = all(".group").map((group) => all("[data-row]", group)).filter((rows) => rows.length);
    const order = { name: (a, b) => a.dataset.name.localeCompare(b.dataset.name), used: (a, b) => b.dataset.used - a.dataset.used, seconds: (a, b) => b.dataset.seconds - a.dataset.seconds };
    sort.addEventListener("change", () => {
      for (const rows of groups) {
        const sorted = order[sort.value] ? [...rows].sort(order[sort.value]) : rows;
        sorted[0].parentElement.append(...sorted);
      }
      say(`sorted by ${sort.selectedOptions[0].textContent}`);
    });
  }

  const filter = one("[data-filter]");
  if (filter) {
    const rows = all("[data-row]");
    const groups = all(".group");
    const count = one("[data-filter-count]");
    filter.form.addEventListener("submit", (event) => event.preventDefault());
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let kept = 0;
      for (const row of rows) {
        const text = row.dataset.text.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        kept += row.hidden ? 0 : 1;
      }
      for (const group of groups) group.hidden = !one("[data-row]:not([hidden])", group);
      count.textContent = words.length ? `${kept} of ${rows.length} cases` : "";
    });
  }
})();
