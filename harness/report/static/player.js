// Golden and candidate on canvases: both sides are drawn from contact sheets in one animation frame, so they cannot drift.
// Pixels are never read back; the difference is made by the compositor. That works from file://, where canvases are tainted.
"use strict";
(() => {
  const root = document.querySelector("[data-player]");
  if (!root) return;
  const one = (selector, from = root) => from.querySelector(selector);
  const all = (selector, from = root) => [...from.querySelectorAll(selector)];
  const state = JSON.parse(root.dataset.state);
  const names = Object.keys(state.sides);
  const views = all("[data-view]").map((button) => button.dataset.view);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const FLICKER_MS = 250;

  let frame = state.start;
  let view = names.length > 1 && !state.same ? "side" : names[names.length - 1];
  let playing = false;
  let divider = 0.5;
  let held = calm;
  let front = 0;

  const pictures = new Map();
  const picture = (source) => {
    let image = pictures.get(source);
    if (!image) {
      image = new Image();
      image.decoding = "async";
      image.addEventListener("load", draw);
      image.addEventListener("error", () => { root.dataset.broken = source; });
      image.src = source;
      pictures.set(source, image);
    }
    return image.complete && image.naturalWidth ? image : null;
  };
  const lossless = (name) => state.sides[name].lossless || frame in state.sides[name].stills;

  const paint = (context, name) => {
    const side = state.sides[name];
    const still = !side.lossless && !playing && side.stills[frame] ? picture(side.stills[frame]) : null;
    context.imageSmoothingEnabled = true;
    if (still) { context.drawImage(still, 0, 0, state.width, state.height); return true; }
    const sheet = picture(side.files[Math.floor(frame / side.per_sheet)]);
    if (!sheet) return false;
    const place = frame % side.per_sheet;
    const x = (place % side.columns) * side.cell_width;
    const y = Math.floor(place / side.columns) * side.cell_height;
    context.drawImage(sheet, x, y, side.cell_width, side.cell_height, 0, 0, state.width, state.height);
    return true;
  };

  const canvas = (pane) => one(`[data-pane="${pane}"] canvas`);
  const gain = () => Number(one("[data-gain]").value);
  const drawBoth = () => {
    const target = canvas("both");
    const context = target.getContext("2d");
    target.style.filter = "";
    context.globalCompositeOperation = "source-over";
    if (view === "flicker") { paint(context, names[front]); return; }
    let drawn = paint(context, "golden");
    if (view === "slider") {
      context.save();
      context.beginPath();
      context.rect(divider * state.width, 0, state.width, state.height);
      context.clip();
      drawn = paint(context, "candidate") && drawn;
      context.restore();
    } else if (view === "difference") {
      context.globalCompositeOperation = "difference";
      drawn = paint(context, "candidate") && drawn;
      context.globalCompositeOperation = "source-over";
      target.style.filter = `brightness(${gain()})`;
    }
    root.dataset.drawn = String(drawn);
  };

  function draw() {
    const both = ["slider", "flicker", "difference"].includes(view);
    if (both) drawBoth();
    else for (const name of names) root.dataset.drawn = String(paint(canvas(name).getContext("2d"), name));
    annotate(both);
  }

  const annotate = (both) => {
    const exact = names.every(lossless);
    for (const pane of all("[data-pane]")) {
      const name = pane.dataset.pane;
      const good = name === "both" ? exact : lossless(name);
      one("[data-quality]", pane).textContent = good && !(playing && !state.sides[names[0]].lossless) ? "lossless" : "lossy preview";
      const mark = one("[data-mark]", pane);
      mark.hidden = !state.tile || state.tile.frame !== frame || playing;
    }
    if (both) one("[data-both-name]").textContent = view === "slider" ? "golden | candidate" : view === "flicker" ? names[front] : `|golden − candidate| ×${gain()}`;
    const lossy = one("[data-lossy]");
    const near = nearest();
    lossy.hidden = exact || playing || !both || near === null;
    if (!lossy.hidden) one("[data-nearest]").textContent = `nearest lossless frame: ${near}`;
  };
  const nearest = () => {
    const kept = Object.keys(state.sides[names[0]].stills).map(Number);
    return kept.length ? kept.reduce((best, other) => (Math.abs(other - frame) < Math.abs(best - frame) ? other : best)) : null;
  };

  const show = (next) => {
    if (!views.includes(next)) return;
    view = next;
    const both = ["slider", "flicker", "difference"].includes(view);
    for (const pane of all("[data-pane]")) {
      const name = pane.dataset.pane;
      pane.hidden = both ? name !== "both" : view === "side" ? name === "both" : name !== view;
    }
    for (const button of all("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === view));
    for (const extra of all("[data-only]")) extra.hidden = extra.dataset.only !== view;
    one("[data-divider]").hidden = view !== "slider";
    one("[data-stage]").dataset.showing = view;
    placeDivider();
    draw();
  };
  const placeDivider = () => { one("[data-divider]").style.left = `${divider * 100}%`; };

  const seek = (next, quiet = false) => {
    frame = Math.max(0, Math.min(state.frames - 1, Math.round(next)));
    one("[data-frame]").value = String(frame);
    one("[data-readout]").textContent = `frame ${frame} of ${state.frames}`;
    for (const pane of all("[data-pane] canvas")) pane.setAttribute("aria-label", `${pane.closest("[data-pane]").dataset.pane}, frame ${frame}`);
    draw();
    document.dispatchEvent(new CustomEvent("quantgate:frame", { detail: { frame, frames: state.frames, quiet } }));
  };

  let last = 0;
  const tick = (now) => {
    if (!playing) return;
    const wait = 1000 / (state.fps * Number(one("[data-speed]").value));
    if (now - last >= wait) {
      last = now - ((now - last) % wait);
      seek((frame + 1) % state.frames, true);
    }
    requestAnimationFrame(tick);
  };
  const play = (on = !playing) => {
    playing = on;
    const button = one("[data-play]");
    button.textContent = playing ? "❚❚" : "▶";
    button.setAttribute("aria-label", playing ? "pause" : "play");
    if (playing) { last = performance.now(); requestAnimationFrame(tick); } else draw();
  };
  setInterval(() => { if (view === "flicker" && !held && !document.hidden) { front = 1 - front; draw(); } }, FLICKER_MS * 2);

  const pause = (next) => { play(false); seek(next); };
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.view) show(button.dataset.view);
    else if (button.dataset.step) pause(frame + Number(button.dataset.step));
    else if ("play" in button.dataset) play();
    else if ("worst" in button.dataset) pause(state.start);
    else if ("nearest" in button.dataset) pause(nearest());
    else if ("flickerHold" in button.dataset) { held = !held; button.setAttribute("aria-pressed", String(held)); }
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-seek]");
    if (!button) return;
    pause(Number(button.dataset.seek));
    root.scrollIntoView({ block: "nearest" });
  });
  document.addEventListener("quantgate:seek", (event) => pause(event.detail.frame));
  one("[data-frame]").addEventListener("input", (event) => pause(Number(event.target.value)));
  one("[data-gain]").addEventListener("change", draw);
  one("[data-divider-range]").addEventListener("input", (event) => { divider = Number(event.target.value) / 100; placeDivider(); draw(); });
  const drag = (event) => {
    if (view !== "slider" || !(event.buttons & 1)) return;
    const box = one("[data-picture] canvas").getBoundingClientRect();
    divider = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    one("[data-divider-range]").value = String(Math.round(divider * 100));
    placeDivider();
    draw();
  };
  if (names.length > 1) for (const kind of ["pointerdown", "pointermove"]) one("[data-picture]").addEventListener(kind, drag);

  Object.assign(window.quantgateKeys, {
    ArrowRight: () => { pause(frame + 1); return true; },
    ArrowLeft: () => { pause(frame - 1); return true; },
    " ": () => { if (document.activeElement.closest("button, a, summary, input")) return false; play(); return true; },
    w: () => { pause(state.start); return true; },
    v: () => { if (views.length) show(views[(views.indexOf(view) + 1) % views.length]); return views.length > 0; },
  });
  views.forEach((name, index) => { window.quantgateKeys[String(index + 1)] = () => { show(name); return true; }; });

  if (state.tile) {
    for (const mark of all("[data-mark]")) {
      mark.style.left = `${(state.tile.x / state.width) * 100}%`;
      mark.style.top = `${(state.tile.y / state.height) * 100}%`;
      mark.style.width = `${(state.tile.width / state.width) * 100}%`;
      mark.style.height = `${(state.tile.height / state.height) * 100}%`;
    }
  }
  if (state.width < 400) root.classList.add("small");
  if (views.length) show(view);
  seek(frame, true);
})();
